"""Writes a model folder of the shape of microsoft/phi-2 with random weights: 2.7 B numbers in
bfloat16, 5.6 GB in shards, never more than one piece of a tensor in memory."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

VOCAB, HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS = 51200, 2560, 32, 32, 10240, 2048
END = "<|endoftext|>"
NUM_SHARDS = 6
_AT_ONCE = 1 << 22  # numbers
_STD = 0.02

Shapes = dict[str, tuple[int, ...]]


def write_phi2(folder: Path, vocabulary: Path | None) -> None:
    """`vocabulary`: GPT-2's folder of vocab.json and merges.txt; None: the 256 bytes are all tokens
    there are. The config comes last: a folder that has one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, vocabulary)
    rng = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for index, shapes in enumerate(_shards(), start=1):
        name = f"model-{index:05}-of-{NUM_SHARDS:05}.safetensors"
        _write_shard(folder / name, shapes, rng)
        weight_map |= dict.fromkeys(shapes, name)
    _write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    _write_json(folder / "config.json", _config())


def _config() -> dict[str, Any]:
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "partial_rotary_factor": 0.4,
        "rope_theta": 10000.0,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,  # random weights: an end id would come at random too
        "torch_dtype": "bfloat16",
    }


def _shards() -> list[Shapes]:
    """The layers in even parts; the first has the embedding, the last one the head."""
    shards: list[Shapes] = [{} for _ in range(NUM_SHARDS)]
    shards[0]["model.embed_tokens.weight"] = (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        shard = shards[layer * NUM_SHARDS // LAYERS]
        prefix = f"model.layers.{layer}."
        shard |= _with_bias(prefix + "input_layernorm", (HIDDEN,))
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            shard |= _with_bias(f"{prefix}self_attn.{name}", (HIDDEN, HIDDEN))
        shard |= _with_bias(prefix + "mlp.fc1", (INTERMEDIATE, HIDDEN))
        shard |= _with_bias(prefix + "mlp.fc2", (HIDDEN, INTERMEDIATE))
    shards[-1] |= _with_bias("model.final_layernorm", (HIDDEN,))
    shards[-1] |= _with_bias("lm_head", (VOCAB, HIDDEN))
    return shards


def _with_bias(name: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _write_shard(path: Path, shapes: Shapes, rng: np.random.Generator) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            mean = 1.0 if "norm.weight" in name else 0.0
            for bits in _random_bf16(math.prod(shape), mean, rng):
                file.write(bits.data)


def _random_bf16(count: int, mean: float, rng: np.random.Generator) -> Iterator[NDArray[np.uint16]]:
    for start in range(0, count, _AT_ONCE):
        numbers = rng.standard_normal(min(_AT_ONCE, count - start), np.float32)
        numbers *= np.float32(_STD)
        numbers += np.float32(mean)
        yield (numbers.view(np.uint32) >> 16).astype(np.uint16)


def _write_tokenizer(folder: Path, vocabulary: Path | None) -> None:
    """GPT-2's byte-level BPE, or its bytes alone."""
    if vocabulary is None:
        letters = sorted(ByteLevel.alphabet())
        model = BPE({letter: i for i, letter in enumerate(letters)}, [])
    else:
        files = (str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
        model = BPE.from_file(*files)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CodeGenTokenizer", "eos_token": END, "model_max_length": POSITIONS},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
