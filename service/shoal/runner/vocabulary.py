"""A model's tokens as its grammars see them, read from its files when one first needs them."""

import time
from collections.abc import Callable, Sequence

from shoal.checkpoint.files import TokenizerFiles
from shoal.errors import ModelFolderError
from shoal.sampling.grammars import Vocabulary

_AT_ONCE = 256
_PAUSE_S = 0.0002
"""After so many tokens, so that the engine's thread gets the interpreter in between."""


def read_vocabulary(files: TokenizerFiles, num_token_ids: int) -> Vocabulary:
    """Raises ModelFolderError for a tokenizer whose tokens spell no text of their own."""
    # Late: most engines never need them.
    from tokenizers.decoders import WordPiece

    from shoal.checkpoint.token_text import TokenText
    from shoal.checkpoint.tokenizer_library import open_library

    opened = open_library(files)
    library = opened.library
    if isinstance(library.decoder, WordPiece):
        raise ModelFolderError(
            "this model's tokenizer puts spaces between its tokens, so that no exact text, such as "
            "JSON, can be asked of it"
        )
    text = TokenText(library, opened.special_ids)
    token_bytes: list[bytes] = []
    for token_id in range(num_token_ids):
        if token_id % _AT_ONCE == 0:
            time.sleep(_PAUSE_S)
        token_bytes.append(text.bytes_of(token_id))
    return Vocabulary(
        token_bytes=token_bytes,
        special_ids=sorted(opened.special_ids),
        encode=_encode_inside(library),
    )


def _encode_inside(library: object) -> Callable[[str], Sequence[int]]:
    """Encodes a text as it stands behind another: without the space that some tokenizers put in
    front. Names of special tokens are text like any other."""
    from tokenizers import Tokenizer

    assert isinstance(library, Tokenizer)
    library.encode_special_tokens = True
    before = "\n"
    start = library.encode(before, add_special_tokens=False).ids

    def encode(text: str) -> Sequence[int]:
        ids: list[int] = library.encode(before + text, add_special_tokens=False).ids
        if ids[: len(start)] == start:
            return ids[len(start) :]
        plain: list[int] = library.encode(text, add_special_tokens=False).ids
        return plain

    return encode
