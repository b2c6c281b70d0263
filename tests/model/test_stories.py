"""A real trained model: greedy text equals what its author's checkpoint says in float64."""

import json
from pathlib import Path

import numpy as np
import pytest

from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow, StepPlan
from shoal.runner.load import load_runner
from tests.model.driving import BACKENDS

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "stories260k"
pytestmark = pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs ../shared/data/models/stories260k beside the repository"
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_text_of_all_cases_at_once_equals_the_reference(backend: str) -> None:
    cases = json.loads((STORIES / "reference-greedy.json").read_text())["cases"]
    config = EngineConfig(models=(), kernels=backend, num_threads=1, kv_cache_bytes=16 << 20)
    runner, loaded, num_blocks, *_ = load_runner(
        ModelSource("stories", str(STORIES)), config, 16 << 20, lambda progress: None
    )
    assert (loaded.vocab_size, loaded.num_parameters) == (512, 260_032)
    blocks = iter(np.random.default_rng(0).permutation(num_blocks).tolist())
    greedy = SamplingParams(seed=0, temperature=0.0)
    new_rows = []
    for index, case in enumerate(cases):
        prompt = case["prompt_ids"]
        total = len(prompt) + len(case["output_ids"])
        block_ids = [next(blocks) for _ in range(-(-total // 16))]
        stop = StopParams(max_tokens=len(case["output_ids"]))
        row = NewRow(index, prompt, len(prompt), block_ids, greedy, stop, OutputParams(logprobs=0))
        new_rows.append(row)
    counts = [len(case["prompt_ids"]) for case in cases]
    computed = [0] * len(cases)
    tokens: list[list[int | None]] = [[] for _ in cases]
    logprobs: list[list[float]] = [[] for _ in cases]
    active = list(range(len(cases)))
    released: list[int] = []
    while active:
        result = runner.run(
            StepPlan(
                seq_ids=active,
                num_computed_tokens=[computed[i] for i in active],
                num_new_tokens=[counts[i] for i in active],
                new_rows=new_rows,
                released=released,
            )
        )
        new_rows = []
        for i, token_id in zip(active, result.token_ids, strict=True):
            tokens[i].append(token_id)
            logprobs[i].append(result.logprobs[i].logprob)
            computed[i] += counts[i]
            counts[i] = 1
        released = [i for i in active if len(tokens[i]) == len(cases[i]["output_ids"])]
        active = [i for i in active if i not in released]
    for case, found, values in zip(cases, tokens, logprobs, strict=True):
        assert found == case["output_ids"]
        np.testing.assert_allclose(values, case["output_logprobs"], atol=2e-4)
