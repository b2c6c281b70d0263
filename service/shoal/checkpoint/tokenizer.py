"""What the number of token ids of a model is, without building its tokenizer."""

import json

from shoal.checkpoint.files import TokenizerFiles
from shoal.errors import ModelFolderError


def num_token_ids(files: TokenizerFiles) -> int:
    """The highest id + 1, added tokens included. Raises ModelFolderError."""
    if files.num_ids is not None:
        return files.num_ids
    definition = files.definition()
    try:
        tokenizer = json.loads(definition) if isinstance(definition, str) else definition
        vocab = tokenizer["model"]["vocab"]
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        added = (token["id"] for token in tokenizer.get("added_tokens") or ())
        return int(max((*ids, *added))) + 1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelFolderError(
            f"{files.where} is not a tokenizer that this version of Shoal knows: save it again "
            "with transformers, AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        ) from error
