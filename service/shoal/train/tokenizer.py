"""Byte-level BPE (Radford et al. 2019): training, control tokens and the chat template.

Any text survives encoding and decoding unchanged: there is no unknown token and no normalization.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from shoal.train.config import TokenizerChoice

END_OF_TEXT = "<|endoftext|>"  # id 0: begins every text (bos) and ends plain text (eos)
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"  # ends a turn
CONTROL_TOKENS = (END_OF_TEXT, SYSTEM, USER, ASSISTANT, END)

# Words, single digits and runs of punctuation such as `":"`, each with the space before it. `_`
# joins words, so that a label such as `book_flight` may become one token.
_FIELDS_PATTERN = r" ?\p{L}+(?:_\p{L}+)*| ?\p{N}|\s| ?[^\s\p{L}\p{N}]+"
_SPACE = "\u0120"  # how byte-level BPE writes a space


def train_tokenizer(texts: Iterable[str], choice: TokenizerChoice) -> Tokenizer:
    """Train a tokenizer on `texts`. Ids 0 to 4 are the control tokens in the order above."""
    if choice.style == "prose":
        split: pre_tokenizers.PreTokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return _complete(_train_bpe(texts, choice.vocab_size, split), split)
    return _train_fields(list(texts), choice.vocab_size)


def chat_template(read_twice: bool = False) -> str:
    """The Jinja template of a folder; `read_twice`: it writes every user turn twice."""
    turn = "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    repeated = "{% if message['role'] == 'user' %}" + turn + "{% endif %}" if read_twice else ""
    return (
        "{{ bos_token }}"
        "{% for message in messages %}" + turn + repeated + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def begin_with_end_of_text(tokenizer: Tokenizer) -> None:
    """Let every encoded text begin with the end-of-text token."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A $B",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )


def twins(tokenizer: Tokenizer) -> dict[int, int]:
    """Id of a token that begins with a space -> id of the same token without it."""
    ids = tokenizer.get_vocab()
    return {
        token_id: ids[token[1:]]
        for token, token_id in ids.items()
        if token[:1] == _SPACE and token[1:] in ids
    }


def _train_fields(texts: list[str], vocab_size: int) -> Tokenizer:
    """BPE in which ` word` and `word` are split at the same places.

    A word in a request follows a space, the same word in JSON a quotation mark. So merges are
    learned on words without spaces, and each is then listed twice: as it is, and with a leading
    space. A value is copied as its tokens, only the first of which loses its space.
    """
    bare = _split(_FIELDS_PATTERN.replace(" ?", ""))
    trained = json.loads(_train_bpe(texts, vocab_size, bare).to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    split = _split(_FIELDS_PATTERN)
    words = {word for text in set(texts) for word, _ in split.pre_tokenize_str(text)}
    starts = {  # of everything that follows a space
        word[1:end] for word in words if word[0] == _SPACE for end in range(2, len(word) + 1)
    }
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = set(string.ascii_letters + string.digits)
    twice = [(_SPACE, byte) for byte in alphabet if byte in starts | plain]
    for left, right in merges:
        twice.append((left, right))
        if left + right in starts:
            twice.append((_SPACE + left, right))
    tokens = [*CONTROL_TOKENS, *alphabet]
    room = vocab_size - len(tokens)
    tokens += ["".join(merge) for merge in twice[:room]]
    ids = {token: token_id for token_id, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(ids, twice[:room]))
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    return _complete(tokenizer, split)


def _train_bpe(
    texts: Iterable[str], vocab_size: int, split: pre_tokenizers.PreTokenizer
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _complete(tokenizer: Tokenizer, split: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    begin_with_end_of_text(tokenizer)
    return tokenizer


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
