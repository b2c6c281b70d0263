"""Beam search of a real server finds the sequences of transformers' generate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.fakes.text_folder import END_ID, VOCAB_SIZE

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("beams") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with serve_process(folder) as server:
        yield server


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


CASES: list[dict[str, Any]] = [
    {},
    {"early_stopping": True},
    {"early_stopping": "never"},
    {"length_penalty": 2.0},
    {"length_penalty": 0.0, "early_stopping": "never"},
    {"length_penalty": -1.0},
    {"min_tokens": 5},
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_sequences_are_those_of_transformers(
    server: ServerProcess, theirs: Any, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(len(str(options)))
    for width, count in [(2, 1), (3, 3)]:
        prompt = rng.integers(0, 256, 20).tolist()
        # Frequent end tokens, so that beams of different lengths compete.
        ends = [END_ID, *rng.integers(0, VOCAB_SIZE, 12).tolist()]
        wanted = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),  # a 0 is no padding here
            num_beams=width,
            num_return_sequences=count,
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=options.get("min_tokens"),
            eos_token_id=ends,
            pad_token_id=0,
            length_penalty=options.get("length_penalty", 1.0),
            early_stopping=options.get("early_stopping", False),
        )[:, len(prompt) :].tolist()
        body = {
            "prompt": prompt, "use_beam_search": True, "n": count, "best_of": width,
            "max_tokens": 12, "stop_token_ids": ends, "return_token_ids": True, "logprobs": 1,
            **options,
        }  # fmt: skip
        response = httpx.post(server.url + "/v1/completions", json=body, timeout=120)
        assert response.status_code == 200, response.text
        found = [choice["token_ids"] for choice in response.json()["choices"]]
        assert found == [
            _until_end(tokens, ends, options.get("min_tokens", 0)) for tokens in wanted
        ]


def _until_end(token_ids: list[int], ends: list[int], min_tokens: int) -> list[int]:
    """Without the padding behind the end token."""
    for place, token_id in enumerate(token_ids):
        if token_id in ends and place >= min_tokens:
            return token_ids[: place + 1]
    return token_ids
