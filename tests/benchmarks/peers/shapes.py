"""The models of the comparison: sizes of real models, random weights, real tokenizers.

Written once in Hugging Face layout (bfloat16) under `.cache/peers/models`. Speed does not depend on
what the weights say, so nothing is downloaded. Knows nothing of servers.
"""

import json
import lzma
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "peers"
DATA = ROOT.parent / "shared" / "data"
END_TOKEN = "<|endoftext|>"
TRAINING_CHARACTERS = 6_000_000  # of text for the 8k tokenizer
INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Load:
    """What each request asks for. With `waves` a level ends after so many requests per client, not
    after a fixed time: for models whose one answer takes longer than a window should."""

    words: int = 64
    tokens: int = 128
    waves: int | None = None

    @property
    def context(self) -> int:
        """Tokens one sequence needs, in steps of 64; our words take fewer than 2.2 tokens."""
        return 64 * math.ceil((2.2 * self.words + self.tokens + 16) / 64)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of Llama's architecture. `tokenizer` names how its vocabulary is made."""

    name: str
    vocab_size: int
    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp: int
    tokenizer: str
    load: Load
    clients: tuple[int, ...]  # levels that make sense for its speed

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads

    @property
    def folder(self) -> Path:
        return CACHE / "models" / self.name

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in tensors(self))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("14m", 8192, 384, 6, 6, 6, 1024, "trained", Load(), (1, 8, 32, 128)),
        # SmolLM2-135M's sizes and number of tokens; the vocabulary is GPT-2's, cut.
        Shape("135m", 49152, 576, 30, 9, 3, 1536, "gpt2", Load(64, 128, waves=1), (1, 8, 32)),
        # Qwen2-0.5B's sizes with 49152 instead of 151936 tokens, so 402 instead of 494 million
        # parameters: the largest vocabulary at hand is GPT-2's.
        Shape("0.5b", 49152, 896, 24, 14, 2, 4864, "gpt2", Load(16, 32, waves=1), (1, 8, 32)),
    )
}


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as in the file; the head is the embedding (tied)."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab_size, shape.hidden)
    for layer in range(shape.num_layers):
        start = f"model.layers.{layer}."
        yield start + "input_layernorm.weight", (shape.hidden,)
        yield start + "self_attn.q_proj.weight", (queries, shape.hidden)
        yield start + "self_attn.k_proj.weight", (keys, shape.hidden)
        yield start + "self_attn.v_proj.weight", (keys, shape.hidden)
        yield start + "self_attn.o_proj.weight", (shape.hidden, queries)
        yield start + "post_attention_layernorm.weight", (shape.hidden,)
        yield start + "mlp.gate_proj.weight", (shape.mlp, shape.hidden)
        yield start + "mlp.up_proj.weight", (shape.mlp, shape.hidden)
        yield start + "mlp.down_proj.weight", (shape.hidden, shape.mlp)
    yield "model.norm.weight", (shape.hidden,)


def model_folder(shape: Shape) -> Path:
    """The shape's folder, written on the first call."""
    if not shape.folder.is_dir():
        # Whole or not at all: an interrupted run leaves no folder that looks ready.
        draft = shape.folder.with_name(shape.folder.name + ".part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write_tokenizer(shape, draft)
        _write_config(shape, draft)
        _write_weights(shape, draft / "model.safetensors")
        draft.rename(shape.folder)
    return shape.folder


def _write_weights(shape: Shape, file: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in tensors(shape):
        end = offset + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(20_250_801)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, size in tensors(shape):
            if len(size) == 1:
                values = np.ones(size, np.float32)
            else:
                values = rng.standard_normal(size, np.float32) * np.float32(INIT_STD)
            out.write(to_bfloat16(values).tobytes())


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Upper halves of finite float32 values, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    return (rounded >> 16).astype(np.uint16)


def _write_config(shape: Shape, folder: Path) -> None:
    end = shape.vocab_size - 1
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "bfloat16",
    }
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_TOKEN,
        "eos_token": END_TOKEN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))


def _write_tokenizer(shape: Shape, folder: Path) -> None:
    """Byte-level BPE with GPT-2's pattern, which every peer has; the end token is the last id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if shape.tokenizer == "gpt2":
        vocabulary, merges = _cut_gpt2(shape.vocab_size)
    else:
        vocabulary, merges = _train(shape.vocab_size)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_TOKEN, special=True, normalized=False)])
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise SystemExit(f"{shape.name}: {tokenizer.get_vocab_size()} tokens came out")
    tokenizer.save(str(folder / "tokenizer.json"))


def _cut_gpt2(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The first `size` - 1 tokens: the 256 bytes and what the earliest merges make of them."""
    source = DATA / "tokenizers" / "gpt2-50k"
    if not source.is_dir():
        raise SystemExit(f"the large shapes need GPT-2's vocabulary in {source}")
    whole: dict[str, int] = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    vocabulary = {token: number for token, number in whole.items() if number < size - 1}
    lines = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    merges = [(left, right) for left, right in pairs if left + right in vocabulary]
    return vocabulary, merges


def _train(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pattern
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=pattern.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _texts() -> Iterator[str]:
    """Plain English where the shared corpora are at hand, else this repository's own text."""
    left = TRAINING_CHARACTERS
    corpus = DATA / "corpora" / "wikipedia-core.jsonl.xz"
    if corpus.is_file():
        with lzma.open(corpus, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                yield text
                left -= len(text)
                if left < 0:
                    return
    for pattern in ("*.md", "service/**/*.py", "tests/**/*.py"):
        for file in sorted(ROOT.glob(pattern)):
            yield file.read_text(encoding="utf-8")
