"""Numbers that are not finite stay with their request: through the real native step, with every
kind of row beside them. An adapter of NaN makes them."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.model.adapter import AdapterMatrix
from shoal.protocol.messages import AdapterSource, ModelSource, Submit, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from tests.conformance.served import write_tiny_llama
from tests.unit.runner.asking import Asked

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

WIDTH = 64  # of the tiny model
BAD, GOOD = 9, 1  # adapters
GRAMMAR = json.dumps({"grammars": [{"json_schema": {"type": "array", "items": {"enum": [1, 23]}}}]})
KINDS: list[dict[str, Any]] = [
    {"sampling": {"temperature": 0.0}},
    {"sampling": {"temperature": 1.0}},
    {"sampling": {"temperature": 0.0}, "output": {"logprobs": 2}},
    {"sampling": {"temperature": 1.0}, "output": {"trace": 2}},  # with the lens
    {"sampling": {"temperature": 1.0, "grammar": GRAMMAR}},
    {"sampling": {"temperature": 0.0}, "adapter_id": GOOD},
    {"sampling": {"temperature": 0.8, "repetition_penalty": 1.3, "top_k": 9}},
    {"sampling": {"temperature": 0.0}, "output": {"prompt_logprobs": 1}},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource("tiny", str(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny")))


def serve(tiny: ModelSource, **config: Any) -> Asked:
    """The model with its two adapters. No folder could bring one of NaN: the loader refuses it."""
    asked = Asked(tiny, num_threads=1, **{"kv_cache_bytes": 1 << 22, **config})
    runner: Any = asked.core._models["tiny"].runner
    runner._read_adapter = lambda path: _matrices(np.nan if path.name == "bad" else 0.01)
    for name, adapter_id in (("bad", BAD), ("good", GOOD)):
        asked.core.load_adapter(AdapterSource(name, "tiny", name, adapter_id))
    return asked


def _matrices(value: float) -> list[AdapterMatrix]:
    """Queries, keys and values of the first layer."""
    a = np.full((2, WIDTH), 0.01, np.float32)
    return [
        AdapterMatrix(0, (role,), a, (np.full((width, 2), value, np.float32),))
        for role, width in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2))
    ]


def ask(seq_id: int, *, adapter_id: int | None = None, prompt: int = 40) -> Submit:
    """A different prompt and kind of row for each id."""
    kind = KINDS[seq_id % len(KINDS)]
    return Submit(
        seq_id,
        "tiny",
        [(seq_id * 31 + i * i) % 250 for i in range(prompt)],
        SamplingParams(seed=seq_id, **kind["sampling"]),
        StopParams(12),
        OutputParams(**kind.get("output", {})),
        adapter_id=kind.get("adapter_id", 0) if adapter_id is None else adapter_id,
    )


def said(asked: Asked, *submits: Submit) -> dict[int, tuple[list[int], list[TokenLogprobs]]]:
    asked.forget()
    asked.run(*submits)
    return {
        submit.seq_id: (asked.tokens.get(submit.seq_id, []), asked.logprobs.get(submit.seq_id, []))
        for submit in submits
    }


@pytest.mark.parametrize("token_budget", [192, 24], ids=["at once", "in chunks"])
def test_a_row_of_nan_fails_alone_in_every_batch_and_place(
    tiny: ModelSource, token_budget: int
) -> None:
    asked = serve(tiny, token_budget=token_budget, prefix_cache=False)
    alone = {}
    for seq_id in range(8):
        alone |= said(asked, ask(seq_id))
        assert asked.finished[seq_id].error_code is None
    for batch_size in range(1, 9):
        for row in {0, batch_size // 2, batch_size - 1}:
            submits = [ask(i, adapter_id=BAD if i == row else None) for i in range(batch_size)]
            together = said(asked, *submits)
            assert asked.finished[row].error_code == "numerical_error"
            assert together.pop(row) == ([], [])
            assert together == {i: alone[i] for i in together}


def test_every_kind_of_row_fails_by_itself_and_leaves_the_next_one_alone(tiny: ModelSource) -> None:
    asked = serve(tiny)
    wanted = said(asked, ask(0))
    for kind in range(len(KINDS)):
        bad = msgspec.structs.replace(ask(kind + 100 * len(KINDS)), adapter_id=BAD)
        found = said(asked, bad, msgspec.structs.replace(ask(0), seq_id=kind))
        assert asked.finished[bad.seq_id].error_code == "numerical_error", KINDS[kind]
        assert found[kind] == wanted[0]


def test_blocks_of_nan_are_not_found_again(tiny: ModelSource) -> None:
    asked = serve(tiny)
    for seq_id in (1, 2):
        asked.run(msgspec.structs.replace(ask(0, adapter_id=BAD), seq_id=seq_id))
        (model,) = asked.core._models.values()
        assert model.scheduler.blocks.reset_cache() == 0, "a block of a failed row is in the cache"


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
def test_old_nan_in_freed_blocks_reaches_nobody(tiny: ModelSource, kv_cache_dtype: str) -> None:
    """The pool is full of NaN before each answer."""
    options = {"kv_cache_dtype": kv_cache_dtype, "kv_cache_bytes": 1 << 18}
    fresh, stale = serve(tiny, **options), serve(tiny, **options)
    num_blocks = stale.core.stats()[0].num_blocks
    length = stale.core.loaded_models[0].max_model_len - 1
    for seq_id in range(8):
        fill = [
            ask(1000 + 8 * i, adapter_id=BAD, prompt=length)
            for i in range(-(-num_blocks * 16 // length))
        ]
        stale.forget()
        stale.run(*fill)
        assert {end.error_code for end in stale.finished.values()} == {"numerical_error"}
        assert said(stale, ask(seq_id)) == said(fresh, ask(seq_id))
