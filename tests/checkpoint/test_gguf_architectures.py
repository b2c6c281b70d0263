"""Every architecture of GGUF: a small random model of `transformers`, converted as llama.cpp's
converter does it, gives the same logits again, in `transformers` from our config and tensors and in
our own decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.gguf_architectures import GGUF_ARCHITECTURES
from shoal.checkpoint.gguf_bert import BERT_ARCHITECTURES
from shoal.checkpoint.open import open_model
from shoal.model.registry import ARCHITECTURES, read_model
from tests.checkpoint.gguf_cases import CASES, Case, as_folder, network, written
from tests.fakes.gguf_files import GgufContent, Ready, converted, rounded, write_gguf
from tests.model.driving import (
    BACKENDS,
    Batch,
    log_probs,
    make_backend,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

TOLERANCE = 1e-4
NUM_TOKENS = 90


@pytest.mark.parametrize("name", CASES)
def test_the_models_own_logits_come_back(tmp_path: Path, name: str) -> None:
    """Half of the files have quantized matrices: those of a model that the type can hold."""
    case = CASES[name]
    stored = "F32" if "," in name else "Q8_0"
    model = network(case)
    rounded(model, stored)
    path = written(case, model, tmp_path / "tiny.gguf", stored)
    dtypes = {tensor.dtype for tensor in open_model(path).tensors(lambda progress: None).values()}
    assert stored in dtypes
    token_ids = random_ids(NUM_TOKENS, vocab=96)
    wanted = log_probs(reference_logits(model, token_ids))
    assert wanted.std() > 0.5  # else the comparison would say little
    folder = as_folder(path, tmp_path / "folder")
    again = log_probs(reference_logits(reference_model(folder), token_ids))
    np.testing.assert_allclose(again, wanted, atol=TOLERANCE, rtol=0)
    assert_own_decoder(path, token_ids, wanted)


def assert_own_decoder(
    path: Path, token_ids: list[int], wanted: np.ndarray[Any, Any], backend: str = "torch"
) -> None:
    """The same from our decoder, where the family is one that we have."""
    files = open_model(path)
    if files.config["architectures"][0] in ARCHITECTURES:
        assert read_model(files.config, files.config_file).unused_keys == []
        found = log_probs(whole_logits(Batch.over(make_backend(path, backend)), token_ids))
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_every_type_that_can_be_written_gives_the_models_logits(
    tmp_path: Path, stored: str, backend: str
) -> None:
    case = CASES["llama"]
    model = network(case)
    rounded(model, stored)
    path = written(case, model, tmp_path / "tiny.gguf", stored)
    tensors = open_model(path).tensors(lambda progress: None)
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == stored
    token_ids = random_ids(NUM_TOKENS, vocab=96)
    assert_own_decoder(path, token_ids, log_probs(reference_logits(model, token_ids)), backend)


@pytest.mark.parametrize("stored", ["Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_give_the_logits_of_their_numbers(tmp_path: Path, stored: str) -> None:
    """Nothing here can write these types: the blocks are random, the numbers are theirs."""
    case = Case("llama", "llama", {"hidden_size": 256, "intermediate_size": 256})
    model = network(case)
    content = converted(model, "llama")
    rng = np.random.default_rng(0)
    for name, tensor in content.tensors.items():
        if not isinstance(tensor, Ready) and tensor.ndim == 2 and name != "output.weight":
            content.tensors[name] = Ready(random_blocks(rng, tensor.shape, stored), stored)
    path = write_gguf(tmp_path / "tiny.gguf", content)
    folder = as_folder(path, tmp_path / "folder")
    token_ids = random_ids(NUM_TOKENS, vocab=96)
    wanted = log_probs(reference_logits(reference_model(folder), token_ids))
    assert wanted.std() > 0.5
    assert_own_decoder(path, token_ids, wanted)


def random_blocks(
    rng: np.random.Generator, shape: tuple[int, ...], stored: str
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Any bits, with scales that give numbers near the size of trained weights."""
    places = {"Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}
    num_bytes, scales = places[stored]
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // 256, num_bytes), np.uint8)
    for at in scales:
        scale = rng.uniform(2e-5, 6e-5, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def test_a_fused_matrix_of_phi2_is_taken_apart(tmp_path: Path) -> None:
    """Files of its first converter have one matrix of queries, keys and values."""
    case = CASES["phi2"]
    model = network(case)
    content = converted(model, "phi2", **case.metadata)
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [content.tensors.pop(f"blk.{layer}.attn_{x}.{kind}") for x in "qkv"]
            arrays = [part for part in parts if not isinstance(part, Ready)]
            content.tensors[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(arrays)
    path = write_gguf(tmp_path / "tiny.gguf", content, stored="Q8_0")
    one = open_model(path).tensors(lambda progress: None)
    other = open_model(written(case, model, tmp_path / "apart.gguf", "Q8_0"))
    for name, tensor in other.tensors(lambda progress: None).items():
        np.testing.assert_array_equal(one[name].array, tensor.array)


def test_every_architecture_has_a_case() -> None:
    """Encoders have theirs in test_gguf_encoders.py."""
    tested = {case.architecture for case in CASES.values()} | BERT_ARCHITECTURES.keys()
    assert tested == set(GGUF_ARCHITECTURES)


def test_what_is_only_renamed_is_a_view_of_the_file(tmp_path: Path) -> None:
    path = written(CASES["qwen2"], network(CASES["qwen2"]), tmp_path / "tiny.gguf", "Q4_0")
    for tensor in open_model(path).tensors(lambda progress: None).values():
        assert not tensor.array.flags.owndata


def test_a_content_without_a_model_is_written_as_given(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", GgufContent("llama", {}, {"a.weight": np.ones((2, 32))}))
    assert open_model(path).name == "x.gguf"
