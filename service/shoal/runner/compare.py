"""Compares a loaded model with `transformers` on the same folder, for `shoal check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import ModelFiles
from shoal.model.loader import read_description
from shoal.protocol.messages import TokenLogprobs

NUM_GREEDY = 20
NUM_TOP = 20
MAX_DIFFERENCE = 0.5
"""Of a log-probability. Beyond it the numbers are not those of smaller weights but wrong."""
MAX_SHARE = 0.1
"""The same of a vector: of its length."""


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


@dataclass(frozen=True, slots=True)
class EmbeddingComparison:
    """How far our embedding is from that of transformers in float32."""

    num_tokens: int
    difference: float
    """Length of the difference, of the length of theirs."""

    @property
    def agrees(self) -> bool:
        return self.difference <= MAX_SHARE


def can_compare(path: Path) -> bool:
    """Is there a folder of files, and transformers with PyTorch to read it?"""
    is_installed = all(find_spec(name) is not None for name in ("transformers", "torch"))
    return is_installed and path.is_dir()


def compare_with_transformers(
    path: Path, prompt: Sequence[int], reports: Sequence[TokenLogprobs], greedy: Sequence[int]
) -> Comparison:
    """`reports`: ours for prompt[1:], each with the likeliest tokens of its position; `greedy`: the
    ids we answer. Raises whatever transformers does about a folder that it cannot read."""
    reference = _Reference(path)
    theirs = reference.logprobs(prompt)[:-1]
    ours = np.array([report.top_logprobs for report in reports])
    top_ids = np.array([report.top_ids for report in reports])
    differences = np.abs(np.take_along_axis(theirs, top_ids, axis=1) - ours)
    expected: list[int] = list(prompt)
    num_equal = 0
    for token_id in greedy:
        if int(reference.logprobs(expected)[-1].argmax()) != token_id:
            break
        num_equal += 1
        expected.append(token_id)
    return Comparison(len(ours), float(differences.max()), num_equal)


def compare_embedding(
    files: ModelFiles, prompt: Sequence[int], vector: NDArray[np.float32]
) -> EmbeddingComparison:
    """`vector`: ours of the prompt. Raises as `compare_with_transformers`."""
    spec = read_description(files).spec.embedding
    if spec is None:
        raise ValueError("the model makes no embeddings")
    vectors = _Reference(files.path, "AutoModel").vectors(prompt)
    pooled = {"mean": vectors.mean(0), "first": vectors[0], "last": vectors[-1]}[spec.pooling]
    theirs = pooled / np.linalg.norm(pooled) if spec.normalized else pooled
    difference = float(np.linalg.norm(vector - theirs) / np.linalg.norm(theirs))
    return EmbeddingComparison(len(prompt), difference)


class _Reference:
    """The model as transformers reads it; nothing is downloaded and no code of it is run."""

    def __init__(self, path: Path, kind: str = "AutoModelForCausalLM") -> None:
        import torch
        import transformers
        from transformers.utils import logging

        output: Any = logging
        output.set_verbosity_error()
        output.disable_progress_bar()
        self._torch = torch
        self._model = getattr(transformers, kind).from_pretrained(  # in evaluation mode
            path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )

    def logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """float64 [n, vocab_size], of what follows each token."""
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(token_ids)])).logits[0].double()
            values: NDArray[np.float64] = logits.log_softmax(-1).numpy()
        return values

    def vectors(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """float64 [n, hidden_size], of each token behind the last layer."""
        with self._torch.inference_mode():
            states = self._model(self._torch.tensor([list(token_ids)])).last_hidden_state[0]
            values: NDArray[np.float64] = states.double().numpy()
        return values
