"""Byte-level BPE: training, the five control tokens, and the chat template that uses them.

Any text survives encoding and decoding unchanged: there is no unknown token and no normalization.
Byte-level BPE as in Radford et al. 2019, trained by the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from shoal.train.config import TokenizerChoice

END_OF_TEXT = "<|endoftext|>"  # id 0: begins every text (bos) and ends plain text (eos)
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"  # ends a turn
CONTROL_TOKENS = (END_OF_TEXT, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Words stand alone and so does each digit, every blank is a token of its own, and a run of
# punctuation such as `":"` stays whole. `_` joins words, so an intent may become one token.
_FIELDS_PATTERN = r"\p{L}+(?:_\p{L}+)*|\p{N}|\s|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str], choice: TokenizerChoice) -> Tokenizer:
    """Train a tokenizer on `texts`. Ids 0 to 4 are the control tokens in the order above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(choice)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=choice.vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A $B",
        special_tokens=[(END_OF_TEXT, 0)],
    )
    return tokenizer


def _pre_tokenizer(choice: TokenizerChoice) -> pre_tokenizers.PreTokenizer:
    if choice.style == "prose":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_FIELDS_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
