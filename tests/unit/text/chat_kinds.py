"""Tokenizers that look at their text in different ways, and chat templates of the usual shapes."""

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from shoal.text.chat import Chat
from shoal.text.tokenizer import Tokenizer
from tests.unit.text.building import wrap

SPECIALS = (
    *("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<<SYS>>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
)
ADDED = ("<User>", "<Bot>", "<think>", "</think>", "  ", "\n\n", "hello")
"""Not special: turn marks of a vocabulary that forgot to say so, and ordinary words."""
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABEILNSTUY0123456789<>|[]/_.,!?:#é日本\n"
_WORDS = ("he", "hel", "hell", "hello", "th", "the", "in", "im", "us", "use", "user")


def _merges(*words: str) -> list[tuple[str, str]]:
    return [(word[:-1], word[-1]) for word in words if len(word) > 1]


def _byte_level(prefix_space: bool) -> HfTokenizer:
    words = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_WORDS, "Ġh", "Ġt"]
    merges = [*_merges(*_WORDS), ("Ġ", "h"), ("Ġ", "t")]
    library = HfTokenizer(models.BPE({w: i for i, w in enumerate(dict.fromkeys(words))}, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    library.decoder = decoders.ByteLevel()
    return library


def _composed() -> HfTokenizer:
    library = _byte_level(prefix_space=False)
    library.normalizer = normalizers.NFC()
    return library


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [*SPECIALS, *byte_tokens, "\u2581", *_LETTERS, *_WORDS, "\u2581t", "\u2581h"]
    merges = [*_merges(*_WORDS), ("\u2581", "t"), ("\u2581", "h")]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}, merges


def _sentencepiece() -> HfTokenizer:
    """As converted from SentencePiece: a normalizer puts the mark before every part."""
    vocab, merges = _pieces()
    library = HfTokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return library


def _metaspace(scheme: str) -> HfTokenizer:
    vocab, merges = _pieces()
    library = HfTokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    library.decoder = decoders.Sequence(
        [decoders.Metaspace(prepend_scheme=scheme), decoders.ByteFallback(), decoders.Fuse()]
    )
    return library


def _unigram() -> HfTokenizer:
    """Its vocabulary holds the control tokens as pieces: it makes them out of plain text."""
    vocab, _ = _pieces()
    scores = [(word, 0.0 if word in SPECIALS else -float(2 + index % 7)) for word, index in
              vocab.items()]  # fmt: skip
    library = HfTokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    return library


def _words() -> HfTokenizer:
    """Whole words between spaces; nearly all are unknown, which is a special token."""
    words = [*SPECIALS, *_WORDS, *_LETTERS]
    library = HfTokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))},
                                           unk_token="<unk>"))  # fmt: skip
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return library


def _wordpiece() -> HfTokenizer:
    """Upper and lower case are one: "<USER>" is "<User>" too."""
    words = [*SPECIALS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WORDS]
    library = HfTokenizer(models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(words))},
                                           unk_token="<unk>"))  # fmt: skip
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return library


def _split_by_pattern() -> HfTokenizer:
    """A pattern that looks across the places where a template joins its parts."""
    library = _byte_level(prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+(?!\S)|\s*[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return library


_MAKERS: dict[str, Callable[[], HfTokenizer]] = {
    "byte level": lambda: _byte_level(prefix_space=False),
    "byte level, space before": lambda: _byte_level(prefix_space=True),
    "byte level, composed": _composed,
    "byte level, own pattern": _split_by_pattern,
    "sentencepiece": _sentencepiece,
    "metaspace, first": lambda: _metaspace("first"),
    "metaspace, always": lambda: _metaspace("always"),
    "unigram": _unigram,
    "words": _words,
    "wordpiece": _wordpiece,
}
TOKENIZERS = tuple(_MAKERS)

TEMPLATES = {
    "chatml": (
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}\n"
        "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<<SYS>>{{ m.content }}"
        "{% elif m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "headers": (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n\n{{ m['content'] | trim }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
    ),
    "added tokens": (
        "{% for m in messages %}{{ '<User>' if m.role == 'user' else '<Bot>' }}{{ m.content }}"
        "{% endfor %}<Bot>{% if 'deep' in m %}<think>{% endif %}"
    ),
    "names put together": (
        "{% for m in messages %}{{ '<' ~ {'user': 'User'}.get(m.role, 'Bot') ~ '>' }}"
        "{{ m.content }}{% endfor %}{{ '<' ~ 'Bot' ~ '>' }}"
    ),
}


@cache
def library(kind: str) -> HfTokenizer:
    """Shared: not to be changed."""
    made = _MAKERS[kind]()
    made.add_special_tokens(
        [AddedToken(name, special=True, rstrip=name == "<|assistant|>") for name in SPECIALS]
    )
    made.add_tokens([AddedToken(name, normalized=name in ("<User>", "hello")) for name in ADDED])
    return made


@cache
def tokenizer(kind: str) -> Tokenizer:
    return wrap(library(kind), **NAMED)


@cache
def chat(kind: str, template: str) -> Chat:
    return Chat("tiny", {"default": TEMPLATES[template]}, tokenizer(kind))
