"""Every family, on both backends, against Hugging Face's own networks: log-probabilities, greedy
text, cut into any chunks and mixed in any batch."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from shoal.runner.inputs import Float32
from tests.fakes.tiny_models import Stored, write_tiny_model
from tests.model.cases import ALL, write_case
from tests.model.driving import (
    BACKENDS,
    Batch,
    Sequence,
    assert_greedy,
    greedy,
    load_folder,
    log_probs,
    make_backend,
    random_chunks,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NUM_TOKENS = 150
TOLERANCE = 1e-4


@cache
def folder_of(family: str, name: str) -> Path:
    return write_case(Path(mkdtemp()) / "tiny", family, name)


@cache
def reference_of(family: str, name: str) -> Any:
    return reference_model(folder_of(family, name))


@cache
def wanted_logits(family: str, name: str) -> Float32:
    """The reference's logits of `random_ids(NUM_TOKENS)`."""
    return reference_logits(reference_of(family, name), random_ids(NUM_TOKENS))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("family", "name"), ALL)
def test_numbers_and_greedy_text_equal_those_of_transformers(
    family: str, name: str, backend: str
) -> None:
    batch = Batch.over(make_backend(folder_of(family, name), backend))
    token_ids = random_ids(NUM_TOKENS)
    wanted = wanted_logits(family, name)
    assert wanted.std() > 0.5  # else the comparison would say little
    found = whole_logits(batch, token_ids)
    np.testing.assert_allclose(log_probs(found), log_probs(wanted), atol=TOLERANCE, rtol=0)
    prompt = random_ids(70, seed=1)
    assert_greedy(reference_of(family, name), prompt, greedy(batch, [prompt], 64)[0])


@pytest.mark.parametrize(("family", "name"), ALL)
def test_random_chunks_give_the_numbers_of_the_whole(family: str, name: str) -> None:
    batch = Batch.over(make_backend(folder_of(family, name)))
    token_ids = random_ids(NUM_TOKENS)
    wanted = wanted_logits(family, name)
    seq = Sequence(token_ids)
    chunks = random_chunks(NUM_TOKENS, np.random.default_rng(3))
    parts = [batch.step([(seq, size)], every_logit=True) for size in chunks]
    found = np.concatenate(parts)
    np.testing.assert_allclose(log_probs(found), log_probs(wanted), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "grouped heads"),
        ("mistral", "a window"),
        ("qwen3", "a window on later layers"),
        ("gpt2", "plain"),
        ("phi", "half of each head turns"),
        ("gemma3_text", "two bases"),
        ("cohere", "norm of every head, biases"),
        ("hunyuan_v1_dense", "norms after rotation"),
        ("bloom", "six heads"),
        ("falcon", "alibi of one kv head, parallel"),
        ("gpt_neo", "another pattern"),
        ("opt", "350m"),
        ("olmo3", "rotations by type"),
        ("lfm2", "one layer attends"),
        ("lfm2", "a kernel longer than a block, a wider MLP"),
        ("qwen2_moe", "every other layer"),
        ("olmoe", "many small experts"),
    ],
)
def test_sequences_in_one_step_do_not_disturb_each_other(family: str, name: str) -> None:
    rng = np.random.default_rng(5)
    batch = Batch.over(make_backend(folder_of(family, name)))
    network = reference_of(family, name)
    seqs = [Sequence(random_ids(count, count)) for count in (70, 3, 33, 1, 58, 17)]
    wanted = [log_probs(reference_logits(network, seq.token_ids)) for seq in seqs]
    left = [random_chunks(len(seq.token_ids), rng) for seq in seqs]
    while open_rows := [row for row, chunks in enumerate(left) if chunks]:
        chosen = [row for row in open_rows if rng.random() < 0.7] or open_rows[:1]
        rng.shuffle(chosen)  # prefill and decode rows in any order
        logits = batch.step([(seqs[row], left[row].pop()) for row in chosen])
        for row, found in zip(chosen, log_probs(logits), strict=True):
            last = seqs[row].num_computed - 1
            np.testing.assert_allclose(found, wanted[row][last], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", ["F16", "BF16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_16_bit_weights_are_computed_exactly_in_float32(
    tmp_path: Path, family: str, stored: Stored, backend: str
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family, stored=stored)
    token_ids = random_ids(60)
    found = whole_logits(Batch.over(make_backend(folder, backend)), token_ids)
    wanted = reference_logits(reference_model(folder), token_ids)
    np.testing.assert_allclose(log_probs(found), log_probs(wanted), atol=TOLERANCE, rtol=0)


def test_bfloat16_logits_are_as_close_as_the_formats_precision(tmp_path: Path) -> None:
    from shoal.runner.backends.torch import TorchBackend

    folder = write_tiny_model(tmp_path / "tiny", stored="BF16")
    spec, weights = load_folder(folder)
    backend = TorchBackend(
        spec, weights, dtype=torch.bfloat16, device="cpu", num_blocks=20, block_size=16
    )
    token_ids = random_ids(60)
    found = whole_logits(Batch.over(backend, num_blocks=20), token_ids)
    wanted = reference_logits(reference_model(folder), token_ids)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).mean() < 0.03 * wanted.std()
