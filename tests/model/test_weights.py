"""Weights by role: views of the file's tensors, however it names and stores them; anything missing,
extra, misshapen or not finite is refused by its name in the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.errors import ModelFolderError
from shoal.model.registry import read_model
from shoal.model.spec import Role, expected_weights
from shoal.model.weights import (
    expected_tensors,
    load_weights,
    num_parameters,
    stored_format,
)
from tests.fakes.tiny_models import (
    CONFIGS,
    TINY_GPT2,
    TINY_LLAMA,
    framed,
    random_weights,
    save_safetensors,
    write_tiny_gpt2,
    write_tiny_llama,
    write_tiny_model,
)
from tests.model.cases import ALL, CASES
from tests.model.driving import load_folder


def load(folder: Path) -> dict[Role, StoredTensor]:
    return load_folder(folder)[1]


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewrite(folder: Path, change: Any, config: dict[str, Any] = TINY_LLAMA) -> Path:
    """Saves the folder's weights again after `change` did something to them."""
    arrays = random_weights(config)
    change(arrays)
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ModelFolderError, match=f"missing: {name}$"):
        load(rewrite(folder, lambda arrays: arrays.pop(name)))
    with pytest.raises(ModelFolderError, match=r"unknown: odd\.one$"):
        load(rewrite(folder, lambda arrays: arrays.update({"odd.one": np.ones(1, np.float32)})))
    with pytest.raises(ModelFolderError, match=rf"{name} \[48, 72\] instead of \[72, 48\]"):
        load(rewrite(folder, lambda arrays: arrays.update({name: arrays[name].T.copy()})))


def test_of_many_missing_tensors_ten_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ModelFolderError, match="and 17 more") as caught:
        load(folder)
    assert caught.value.message.count("model.layers") == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_nan_and_infinity_in_any_format_are_refused_by_name(
    tmp_path: Path, stored: str, bad: float
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype=stored)
    path = folder / "model.safetensors"
    header, data = parts(path.read_bytes())
    entry = header["model.norm.weight"]
    bits = {
        "float32": np.float32(bad).tobytes(),
        "float16": np.float16(bad).tobytes(),
        "bfloat16": np.float32(bad).tobytes()[2:],
    }[stored]
    place = entry["data_offsets"][1] - len(bits)
    path.write_bytes(framed(header, data[:place] + bits + data[place + len(bits) :]))
    with pytest.raises(ModelFolderError, match=r"NaN or infinity: model\.norm\.weight$"):
        load(folder)


def test_a_tied_head_may_be_stored_too_but_must_be_the_embedding(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", tie_word_embeddings=True)
    config = TINY_LLAMA | {"tie_word_embeddings": True}

    def copy(arrays: Any) -> None:
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()

    def differ(arrays: Any) -> None:
        copy(arrays)
        arrays["lm_head.weight"][0, 0] += 1

    assert Role("head.weight") not in load(rewrite(folder, copy, config))
    refusal = r"tie_word_embeddings is true .* lm_head\.weight differs from the embedding"
    with pytest.raises(ModelFolderError, match=refusal):
        load(rewrite(folder, differ, config))


@pytest.mark.parametrize("tied", [False, None])
def test_a_head_that_is_not_tied_must_be_stored(tmp_path: Path, tied: bool | None) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", tie_word_embeddings=tied)
    refusal = r"tie_word_embeddings is false .* no lm_head\.weight"
    with pytest.raises(ModelFolderError, match=refusal):
        load(rewrite(folder, lambda arrays: arrays.pop("lm_head.weight")))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_of_the_network_without_prefix_gives_the_same_weights(
    tmp_path: Path, family: str, tied: bool
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family, tie_word_embeddings=tied)
    wanted = load(folder)
    config = json.loads((folder / "config.json").read_text())
    arrays = random_weights(config)
    prefix = read_model(config, "tiny/config.json").architecture.prefix
    bare = {name.removeprefix(prefix): array for name, array in arrays.items()}
    assert bare.keys() != arrays.keys()
    other = write_tiny_model(tmp_path / "other", family, tie_word_embeddings=tied)
    save_safetensors(other / "model.safetensors", bare)
    found = load(other)
    assert found.keys() == wanted.keys()
    for role, tensor in wanted.items():
        np.testing.assert_array_equal(found[role].array, tensor.array, err_msg=str(role))


MASK = np.tril(np.ones((1, 1, 8, 8)))
BUFFERS: dict[str, tuple[str, Any]] = {
    "gpt2: mask in float32": ("transformer.h.{}.attn.bias", ("F32", np.float32)),
    "gpt2: mask of flags": ("transformer.h.{}.attn.bias", ("BOOL", np.bool_)),
    "gpt2: mask of bytes": ("transformer.h.{}.attn.bias", ("U8", np.uint8)),
    "gpt2: mask of long integers": ("transformer.h.{}.attn.bias", ("I64", np.int64)),
    "gpt2: masked value": ("transformer.h.{}.attn.masked_bias", ("F32", np.float32)),
    "gpt2: without prefix": ("h.{}.attn.bias", ("BOOL", np.bool_)),
    "llama": ("model.layers.{}.self_attn.rotary_emb.inv_freq", ("F32", np.float32)),
    "phi": ("model.layers.{}.self_attn.rotary_emb.inv_freq", ("F64", np.float64)),
    "gpt_neox: mask": ("gpt_neox.layers.{}.attention.bias", ("BOOL", np.bool_)),
    "gpt_neox: masked value": ("gpt_neox.layers.{}.attention.masked_bias", ("F16", np.float16)),
    "gpt_neo": ("transformer.h.{}.attn.attention.bias", ("U8", np.uint8)),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_that_are_no_weights_are_left_out_whatever_their_format(
    tmp_path: Path, name: str
) -> None:
    buffer, (stored, dtype) = BUFFERS[name]
    folder = write_tiny_model(tmp_path / "tiny", name.split(":")[0])
    wanted = load(folder)
    path = folder / "model.safetensors"
    header, data = parts(path.read_bytes())
    if not buffer.startswith(("transformer.", "model.", "gpt_neox.")):
        header = {key.removeprefix("transformer."): entry for key, entry in header.items()}
    for layer in range(2):
        raw = MASK.astype(dtype).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[buffer.format(layer)] = {
            "dtype": stored, "shape": list(MASK.shape), "data_offsets": offsets
        }  # fmt: skip
        data += raw
    path.write_bytes(framed(header, data))
    found = load(folder)
    assert found.keys() == wanted.keys()
    assert num_parameters(found) == num_parameters(wanted)


def test_a_weight_in_a_format_that_is_no_weights_format_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    path = folder / "model.safetensors"
    header, data = parts(path.read_bytes())
    entry = header["model.norm.weight"]
    entry["dtype"] = "I32"
    path.write_bytes(framed(header, data))
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight \(I32\)$"):
        load(folder)


@pytest.mark.parametrize(("family", "name"), ALL)
def test_every_role_of_a_spec_is_named_by_its_family_once(family: str, name: str) -> None:
    config = CONFIGS[family] | CASES[family][name]
    config = {key: value for key, value in config.items() if value is not ...}
    architecture, spec, _ = read_model(config, "tiny/config.json")
    tensors = expected_tensors(architecture, spec)  # several with one source: each has a head
    sources = {(id(source), layer): source for _, source, layer in tensors.values()}
    found = [Role(role, layer) for (_, layer), source in sources.items() for role in source.roles]
    assert sorted(map(str, found)) == sorted(map(str, expected_weights(spec)))


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    for family in CONFIGS:
        folder = write_tiny_model(tmp_path / family, family, stored="BF16")
        weights = load(folder)
        assert stored_format(weights) == "bfloat16"
        assert not any(tensor.array.flags.writeable for tensor in weights.values())
        architecture, spec, _ = read_model(CONFIGS[family], "tiny/config.json")
        for _, source, layer in expected_tensors(architecture, spec).values():
            alternates = source.by_kv_head and spec.layers[0].attention.num_kv_heads > 1
            for role in source.roles:
                assert lies_in_the_file(weights[Role(role, layer)].array) != alternates


def lies_in_the_file(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return array is not None  # None: memory of its own


def test_fused_and_transposed_tensors_are_cut_by_role(tmp_path: Path) -> None:
    folder = write_tiny_gpt2(tmp_path / "tiny")
    arrays, weights = random_weights(TINY_GPT2), load(folder)
    fused = arrays["transformer.h.1.attn.c_attn.weight"]
    hidden = TINY_GPT2["n_embd"]
    for part, name in enumerate("qkv"):
        columns = fused[:, part * hidden : (part + 1) * hidden]
        np.testing.assert_array_equal(weights[Role(f"{name}.weight", 1)].array, columns.T)
        bias = arrays["transformer.h.1.attn.c_attn.bias"][part * hidden : (part + 1) * hidden]
        np.testing.assert_array_equal(weights[Role(f"{name}.bias", 1)].array, bias)


@pytest.mark.parametrize(
    ("family", "changes", "num_kv_heads"),
    [
        ("gpt_neox", {}, 3),
        ("falcon", {"bias": True}, 1),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}, 2),
        ("bloom", {}, 6),
    ],
)
def test_rows_that_alternate_by_kv_head_are_sorted_by_role(
    family: str, changes: dict[str, Any], num_kv_heads: int
) -> None:
    """Every row of the fused tensor holds its own number."""
    config = CONFIGS[family] | changes
    architecture, spec, _ = read_model(config, "tiny/config.json")
    arrays = random_weights(config)
    for name in [name for name in arrays if "query_key_value" in name]:
        numbers = np.arange(len(arrays[name]), dtype=np.float32)
        is_bias = arrays[name].ndim == 1
        arrays[name] = numbers if is_bias else np.repeat(numbers[:, None], 48, axis=1)
    stored = {name: StoredTensor("F32", array, "tiny") for name, array in arrays.items()}
    weights = load_weights(spec, architecture, stored, "tiny")
    attention = spec.layers[1].attention
    group = attention.num_heads // num_kv_heads
    expected: dict[str, list[int]] = {"q": [], "k": [], "v": []}
    row = 0
    for _ in range(num_kv_heads):
        for role in ["q"] * group + ["k", "v"]:
            expected[role] += range(row, row + attention.head_dim)
            row += attention.head_dim
    for role, rows in expected.items():
        weight, bias = weights[Role(f"{role}.weight", 1)], weights[Role(f"{role}.bias", 1)]
        assert weight.array[:, -1].tolist() == bias.array.tolist() == rows


def test_positions_of_opt_begin_at_the_third_row(tmp_path: Path) -> None:
    weights = load(write_tiny_model(tmp_path / "tiny", "opt"))
    table = random_weights(CONFIGS["opt"] | {"vocab_size": 261})[
        "model.decoder.embed_positions.weight"
    ]
    assert table.shape == (258, 32)
    np.testing.assert_array_equal(weights[Role("position_embedding")].array, table[2:])


def test_the_head_of_older_gpt_neox_files_has_another_name(tmp_path: Path) -> None:
    config = CONFIGS["gpt_neox"] | {"vocab_size": 261}

    def rename(arrays: Any) -> None:
        arrays["embed_out.weight"] = arrays.pop("lm_head.weight")

    def have_both(arrays: Any) -> None:
        arrays["embed_out.weight"] = arrays["lm_head.weight"]

    folder = write_tiny_model(tmp_path / "tiny", "gpt_neox")
    wanted = load(folder)[Role("head.weight")].array.copy()
    found = load(rewrite(folder, rename, config))[Role("head.weight")]
    np.testing.assert_array_equal(found.array, wanted)
    with pytest.raises(ModelFolderError, match=r"unknown: embed_out\.weight$"):
        load(rewrite(folder, have_both, config))


PER_HEAD: dict[str, dict[str, Any]] = {
    "cohere": {"use_qk_norm": True},
    "stablelm": {"qk_layernorm": True},
}


@pytest.mark.parametrize("family", PER_HEAD)
def test_norms_of_each_head_are_one_weight_in_the_order_of_the_heads(
    tmp_path: Path, family: str
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family, **PER_HEAD[family])
    arrays = random_weights(json.loads((folder / "config.json").read_text()))
    names = {
        "cohere": "model.layers.1.self_attn.{}_norm.weight",
        "stablelm": "model.layers.1.self_attn.{}_layernorm.norms.{}.weight",
    }
    weights = load(folder)
    for role, heads in (("q", 6), ("k", 2)):
        if family == "cohere":
            wanted = arrays[names[family].format(role)]
        else:
            wanted = np.stack([arrays[names[family].format(role, head)] for head in range(heads)])
        assert wanted.shape == (heads, 8)
        found = weights[Role(f"{role}_norm.weight", 1)].array
        np.testing.assert_array_equal(found, wanted.reshape(-1))


def test_norms_of_each_head_are_all_there_and_stored_alike(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", "stablelm", qk_layernorm=True)
    name = "model.layers.0.self_attn.q_layernorm.norms.5.weight"
    arrays = random_weights(json.loads((folder / "config.json").read_text()))
    mixed = {**arrays, name: arrays[name].astype(np.float16)}
    save_safetensors(folder / "model.safetensors", mixed)
    with pytest.raises(
        ModelFolderError, match=r"norms\.5\.weight is stored as F16, other heads as F"
    ):
        load(folder)
    del arrays[name]
    save_safetensors(folder / "model.safetensors", arrays)
    with pytest.raises(ModelFolderError, match=r"missing: .*q_layernorm\.norms\.5\.weight$"):
        load(folder)
