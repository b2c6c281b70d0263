"""Compares a loaded model with `transformers` on the same folder, for `shoal check`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow, Runner, StepPlan

NUM_GREEDY = 20
NUM_TOP = 20
MAX_DIFFERENCE = 0.5
"""Of a log-probability. Beyond it the numbers are not those of smaller weights but wrong."""
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far our answers are from those of transformers in float32."""

    num_positions: int
    max_logprob_difference: float
    """Of the likeliest tokens of each position."""
    num_greedy_equal: int
    """Of NUM_GREEDY tokens, up to the first that differs."""

    @property
    def agrees(self) -> bool:
        return self.max_logprob_difference <= MAX_DIFFERENCE


def can_compare(path: Path) -> bool:
    """Is there a folder, and transformers with PyTorch to read it?"""
    is_installed = all(find_spec(name) is not None for name in ("transformers", "torch"))
    return is_installed and (path / "config.json").is_file()


def compare_with_transformers(path: Path, runner: Runner, prompt: Sequence[int]) -> Comparison:
    """`prompt`: at least two token ids, and room for NUM_GREEDY more. The runner must be new.
    Raises whatever transformers does about a folder that it cannot read."""
    ours, top, greedy = _run_ours(runner, list(prompt))
    reference = _Reference(path)
    theirs = reference.logprobs(prompt)[: len(top)]
    differences = np.abs(np.take_along_axis(theirs, top, axis=1) - ours)
    expected: list[int] = list(prompt)
    num_equal = 0
    for token_id in greedy:
        if int(reference.logprobs(expected)[-1].argmax()) != token_id:
            break
        num_equal += 1
        expected.append(token_id)
    return Comparison(len(top), float(differences.max()), num_equal)


def _run_ours(
    runner: Runner, prompt: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[int]]:
    """Log-probabilities [n - 1, NUM_TOP] that follow the prompt's tokens, their ids, and a greedy
    answer."""
    num_blocks = -(-(len(prompt) + NUM_GREEDY) // _BLOCK_SIZE)
    row = NewRow(
        seq_id=1,
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        block_ids=list(range(num_blocks)),
        sampling=SamplingParams(seed=0, temperature=0.0),
        stop=StopParams(max_tokens=NUM_GREEDY),
        output=OutputParams(prompt_logprobs=NUM_TOP),
    )
    result = runner.run(StepPlan([1], [0], [len(prompt)], new_rows=[row]))
    reports = result.prompt_logprobs[1]
    greedy: list[int] = []
    for position in range(len(prompt), len(prompt) + NUM_GREEDY):
        (token_id,) = result.token_ids
        if token_id is None:
            break
        greedy.append(token_id)
        result = runner.run(StepPlan([1], [position], [1]))
    runner.run(StepPlan(released=[1]))
    logprobs = np.array([report.top_logprobs for report in reports])
    return logprobs, np.array([report.top_ids for report in reports]), greedy


class _Reference:
    """The model as transformers reads it; nothing is downloaded and no code of it is run."""

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        ).eval()

    def logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """float64 [n, vocab_size], of what follows each token."""
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(token_ids)])).logits[0].double()
            values: NDArray[np.float64] = logits.log_softmax(-1).numpy()
        return values
