"""What a sequence computes does not depend on chunks, blocks, neighbours or stale memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.runner.inputs import Backend, Float32
from tests.fakes.tiny_models import write_tiny_model
from tests.model.driving import (
    BACKENDS,
    BLOCK_SIZE,
    NUM_BLOCKS,
    Batch,
    Sequence,
    fill_cache,
    greedy,
    make_backend,
    random_ids,
    whole_logits,
)

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama"},
    "window": {"kind": "mistral", "sliding_window": 19},
    "windows on some layers": {
        "kind": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 19,
        "max_window_layers": 1,
    },
    "gpt2": {"kind": "gpt2"},
    "phi": {"kind": "phi"},
    "alibi": {"kind": "bloom"},
    "alibi, one kv head": {"kind": "falcon", "alibi": True},
    "clipped": {"kind": "olmo", "clip_qkv": 0.6},
    "lfm2": {"kind": "lfm2"},
}


@pytest.fixture(scope="module", params=BACKENDS)
def backends(request: Any, tmp_path_factory: Any) -> dict[str, Backend]:
    folder = tmp_path_factory.mktemp("tiny")
    return {
        name: make_backend(write_tiny_model(folder / name, **fields), request.param)
        for name, fields in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mix_of_chunks_in_scattered_blocks_equals_the_whole_forward(
    backends: dict[str, Backend], kind: str, data: Any
) -> None:
    backend = backends[kind]
    seed = data.draw(st.integers(0, 1000), "seed")
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=6), "lengths")
    batch = Batch.over(backend, seed=seed)
    seqs = [Sequence(random_ids(length, seed + i)) for i, length in enumerate(lengths)]
    wanted = [whole_logits(batch, seq.token_ids) for seq in seqs]
    found: list[list[Float32]] = [[] for _ in seqs]
    while left := [i for i, seq in enumerate(seqs) if seq.num_computed < len(seq.token_ids)]:
        chosen = data.draw(st.permutations(left), "order")
        chosen = chosen[: data.draw(st.integers(1, len(chosen)), "rows")]
        parts = []
        for i in chosen:
            rest = len(seqs[i].token_ids) - seqs[i].num_computed
            parts.append((seqs[i], data.draw(st.sampled_from([1, rest, max(1, rest // 2)]))))
        logits = batch.step(parts, every_logit=True)
        for i, (_, count) in zip(chosen, parts, strict=True):
            found[i].append(logits[:count])
            logits = logits[count:]
    for rows, whole in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.concatenate(rows), whole, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_the_same_alone_and_in_a_batch_of_32(
    backends: dict[str, Backend], kind: str
) -> None:
    prompts = [random_ids(3 + 5 * (i % 7), seed=i) for i in range(32)]
    batch = Batch.over(backends[kind])
    together = greedy(batch, prompts, 12)
    alone = [greedy(batch, [prompt], 12)[0] for prompt in prompts]
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) > 16  # they do say different things


@pytest.mark.parametrize("kind", KINDS)
def test_nan_left_in_the_cache_by_another_sequence_reaches_nobody(
    tmp_path: Path, kind: str
) -> None:
    torch_backend: Any = make_backend(write_tiny_model(tmp_path / "tiny", **KINDS[kind]))
    prompts = [random_ids(length, seed=length) for length in (1, 15, 16, 17, 40)]
    fill_cache(torch_backend, 0.0)
    wanted = greedy(Batch.over(torch_backend), prompts, 20)
    fill_cache(torch_backend, float("nan"))
    assert greedy(Batch.over(torch_backend, seed=5), prompts, 20) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_nan_spoils_only_its_own_row(tmp_path: Path, kind: str) -> None:
    backend: Any = make_backend(write_tiny_model(tmp_path / "tiny", **KINDS[kind]))

    def last_logits(*, spoiled: bool) -> Float32:
        batch = Batch.over(backend)
        seqs = [Sequence(random_ids(30, seed=i)) for i in range(4)]
        batch.step([(seq, 29) for seq in seqs])
        first, last = seqs[2].block_ids
        for layer in backend.cache if spoiled else []:
            if hasattr(layer, "keys"):
                layer.values[:, first * BLOCK_SIZE + 15] = float("nan")
            else:
                layer.values.view(NUM_BLOCKS, -1)[last] = float("nan")
        return batch.step([(seq, 1) for seq in seqs])

    wanted, found = last_logits(spoiled=False), last_logits(spoiled=True)
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(np.delete(found, 2, 0), np.delete(wanted, 2, 0), atol=1e-5)


def test_a_step_that_wants_no_logits_still_fills_the_cache(backends: dict[str, Backend]) -> None:
    backend = backends["llama"]
    token_ids = random_ids(20)
    wanted = whole_logits(Batch.over(backend), token_ids)[-1]
    positions = np.arange(19, dtype=np.int32)
    table = np.array([[7, 3]], np.int32)
    slots = table[0, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    from shoal.runner.inputs import StepInputs

    def inputs(start: int, end: int, wanted: list[int]) -> StepInputs:
        positions = np.arange(start, end, dtype=np.int32)
        slots = table[0, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        return StepInputs(
            token_ids=np.array(token_ids[start:end], np.int32),
            positions=positions,
            slots=slots.astype(np.int32),
            row_starts=np.array([0, end - start], np.int32),
            context_lens=np.array([end], np.int32),
            block_tables=table,
            logit_indices=np.array(wanted, np.int32),
        )

    assert backend.forward(inputs(0, 19, [])).shape == (0, 261)
    np.testing.assert_allclose(backend.forward(inputs(19, 20, [0]))[0], wanted, atol=2e-5)
    assert slots.max() < NUM_BLOCKS * BLOCK_SIZE
