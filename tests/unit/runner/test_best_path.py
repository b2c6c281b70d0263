"""A backend that finds best tokens itself writes no logits for greedy rows, and nothing else is
different: not the tokens, not the log-probabilities, not which rows fail.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.kernels import native
from shoal.model.spec import Role
from shoal.protocol.params import OutputParams
from shoal.protocol.step import NewRow, StepResult
from shoal.runner.inputs import HeadOutputs, StepInputs
from shoal.runner.model_runner import ModelRunner
from tests.fakes.tiny_models import write_tiny_llama
from tests.model.driving import load_folder
from tests.unit.runner.building import (
    BLOCK_SIZE,
    EchoBackend,
    EchoBestBackend,
    make_runner,
    new_row,
    next_token,
    plan,
)

PROMPTS = [[3, 1, 4], [1, 5, 9, 2], [6, 5], [3, 5, 8, 9, 7], [9, 3, 2, 3]]
WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0, "seed": 4},
    {"output": OutputParams(logprobs=2)},
    {},
    {"presence_penalty": 1.5, "output": OutputParams(logprobs=0, prompt_logprobs=1)},
]


def rows_of(which: list[int]) -> list[NewRow]:
    return [
        new_row(index, PROMPTS[index], [7 * index, 7 * index + 3], **WISHES[index])
        for index in which
    ]


def run_steps(backend: EchoBackend, which: list[int], num_steps: int = 12) -> list[StepResult]:
    """All rows at once, then step by step; new blocks come when the old ones are full."""
    runner = make_runner(backend)
    lengths = {index: len(PROMPTS[index]) for index in which}
    num_blocks = dict.fromkeys(which, 2)
    results = [runner.run(plan(*((i, 0, lengths[i]) for i in which), new=rows_of(which)))]
    for _ in range(num_steps - 1):
        blocks = {}
        for index in which:
            if lengths[index] == num_blocks[index] * BLOCK_SIZE:
                blocks[index] = [7 * index + 3 + num_blocks[index]]
                num_blocks[index] += 1
        results.append(runner.run(plan(*((i, lengths[i], 1) for i in which), blocks=blocks)))
        lengths = {index: length + 1 for index, length in lengths.items()}
    return results


@pytest.mark.parametrize("which", [[0, 3], [0, 1, 2, 3, 4], [4, 3, 1], [2], [1, 4]], ids=str)
def test_tokens_and_logprobs_are_those_of_full_logits(which: list[int]) -> None:
    assert run_steps(EchoBestBackend(), which) == run_steps(EchoBackend(), which)


def test_a_row_gets_the_same_alone_and_beside_rows_that_want_logits() -> None:
    together = run_steps(EchoBestBackend(), [4, 3, 2, 1, 0])
    for place, index in enumerate([4, 3, 2, 1, 0]):
        for alone, step in zip(run_steps(EchoBestBackend(), [index]), together, strict=True):
            assert alone.token_ids == [step.token_ids[place]]
            assert alone.logprobs.get(index) == step.logprobs.get(index)
            assert alone.prompt_logprobs.get(index) == step.prompt_logprobs.get(index)


def test_greedy_rows_ask_for_no_logits_and_others_for_their_own_only() -> None:
    backend = EchoBestBackend()
    run_steps(backend, [0, 3], num_steps=3)
    assert backend.asked == [(0, 2)] * 3
    backend = EchoBestBackend()
    run_steps(backend, [0, 1, 2, 3], num_steps=3)
    assert backend.asked == [(2, 4)] * 3


@pytest.mark.parametrize("company", [[], [1], [2]], ids=str)
def test_a_row_without_finite_logits_fails_alone(company: list[int]) -> None:
    undisturbed = run_steps(EchoBestBackend(), [0, *company], num_steps=1)[0]
    backend = EchoBestBackend(spoil={PROMPTS[3][-1]})
    result = run_steps(backend, [0, 3, *company], num_steps=1)[0]
    assert result.errors == {3: "numerical_error"}
    assert result.token_ids == [undisturbed.token_ids[0], None, *undisturbed.token_ids[1:]]
    assert result.logprobs == undisturbed.logprobs


def test_long_decoding_outgrows_the_block_tables_of_a_batch_and_goes_on() -> None:
    tokens = [step.token_ids for step in run_steps(EchoBestBackend(), [0, 3], num_steps=55)]
    for place, index in enumerate([0, 3]):
        known = list(PROMPTS[index])
        for _ in range(55):
            known.append(next_token(known))
        assert [row[place] for row in tokens] == known[len(PROMPTS[index]) :]


def test_after_a_step_that_failed_the_same_rows_start_again_as_if_new() -> None:
    class FailingBackend(EchoBestBackend):
        fails = False

        def forward_best(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
            if self.fails:
                raise MemoryError
            return super().forward_best(inputs, num_logits)

    backend = FailingBackend()
    runner = make_runner(backend)
    first = runner.run(plan((0, 0, 3), (3, 0, 5), new=rows_of([0, 3])))
    backend.fails = True
    with pytest.raises(MemoryError):
        runner.run(plan((0, 3, 1), (3, 5, 1)))
    backend.fails = False
    again = runner.run(plan((0, 0, 3), (3, 0, 5), new=rows_of([0, 3]), released=[0, 3]))
    assert again == first


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
@pytest.mark.parametrize("wishes", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_native_logits_that_are_not_finite_are_a_numerical_error(
    tmp_path: Path, wishes: dict[str, Any]
) -> None:
    from shoal.runner.backends.native import NativeBackend

    folder = write_tiny_llama(tmp_path / "tiny")
    spec, weights = load_folder(folder)
    head = weights[Role("head.weight")]
    huge = np.sign(head.array) * np.float32(3e38)
    backend = NativeBackend(
        spec,
        {**weights, Role("head.weight"): replace(head, array=huge)},
        dtype="float32",
        num_blocks=8,
        max_step_tokens=64,
        num_threads=1,
        num_token_ids=261,
    )
    runner = ModelRunner(backend, num_token_ids=261, max_rows=4, max_tokens=64, block_size=16)
    result = runner.run(plan((1, 0, 3), new=[new_row(1, [3, 1, 4], [2], **wishes)]))
    assert result.errors == {1: "numerical_error"}
    assert result.token_ids == [None]
