"""Drafts give the same tokens: every family's native kernels compute several positions at once as
one after the other. Models of random weights often repeat themselves, so drafts are often right.
"""

from typing import Any

import numpy as np
import pytest

from shoal.kernels import native
from shoal.protocol.messages import Submit
from shoal.protocol.params import SamplingParams, StopParams
from tests.model import test_identity_matrix as matrix

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels are not built")

WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 0.0, "frequency_penalty": 0.1},
    {"temperature": 0.2},
    {"temperature": 0.0, "dry_multiplier": 0.1},
    {"temperature": 0.0, "logit_bias": ((65, 3.0), (66, -100.0))},
)


def make_requests() -> list[Submit]:
    """Prompts that repeat, so that there is something to guess from the first token on."""
    rng = np.random.default_rng(3)
    return [
        Submit(
            seq_id=0,
            model="m",
            prompt_token_ids=rng.integers(0, matrix.NUM_IDS, 3 + 4 * index).tolist() * 2,
            sampling=SamplingParams(seed=index, **wish),
            stop=StopParams(max_tokens=50, min_tokens=30, stop_token_ids=(7, 8, 9)),
        )
        for index, wish in enumerate(WISHES)
    ]


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (model, dtype)
        for row, model in enumerate(matrix.MODELS)
        for column, dtype in enumerate(matrix.DTYPES)
        if model == "llama" or (column - row) % len(matrix.DTYPES) == 1
    ],
)
def test_answers_are_the_same_with_and_without(model: str, dtype: matrix.Dtype) -> None:
    plain = matrix.Engine(model, dtype, matrix.Serving("plain", batch=1, drafts=False))
    wanted = plain.serve(make_requests())
    assert plain.num_accepted == 0
    may_draft = matrix.load(model)[0].may_go_back
    for serving in (
        matrix.Serving("one row", batch=1),
        matrix.Serving("two rows", batch=2, shuffled=True, num_threads=2),
    ):
        engine = matrix.Engine(model, dtype, serving)
        assert engine.serve(make_requests()) == wanted
        assert (engine.num_accepted > 0) == may_draft
