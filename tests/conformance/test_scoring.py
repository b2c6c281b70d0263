"""Scores of a real server equal those of transformers in float32 on a random model."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.fakes.text_folder import VOCAB_SIZE

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("scoring") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with serve_process(folder, "--max-model-len", "128") as server:
        yield server


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def log_probs(theirs: Any, token_ids: list[int]) -> Any:
    """[position, id]"""
    with torch.no_grad():
        return torch.log_softmax(theirs(torch.tensor([token_ids])).logits[0], -1).numpy()


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> Any:
    response = httpx.post(server.url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_choices(server: ServerProcess, theirs: Any) -> None:
    rng = np.random.default_rng(3)
    for _ in range(4):
        prompt = rng.integers(0, VOCAB_SIZE, int(rng.integers(1, 60))).tolist()
        choices = [rng.integers(0, VOCAB_SIZE, int(rng.integers(1, 9))).tolist() for _ in range(5)]
        greedy: list[int] = []
        for _ in range(4):
            greedy.append(int(log_probs(theirs, prompt + greedy)[-1].argmax()))
        choices.append(greedy)
        found = post(server, "/v1/score_choices", {"prompt": prompt, "choices": choices})["choices"]
        for choice, score in zip(choices, found, strict=True):
            wanted = log_probs(theirs, prompt + choice)
            values = [wanted[len(prompt) - 1 + i, token] for i, token in enumerate(choice)]
            assert score["token_logprobs"] == pytest.approx(values, abs=1e-4)
            assert score["logprob"] == pytest.approx(sum(values), abs=5e-4)
            assert score["is_greedy"] == (choice == greedy)


def test_scores_are_the_same_bits_cold_and_warm(server: ServerProcess) -> None:
    rng = np.random.default_rng(9)
    prompt = rng.integers(0, VOCAB_SIZE, 70).tolist()
    choices = [rng.integers(0, VOCAB_SIZE, 5).tolist() for _ in range(4)]
    body = {"prompt": prompt, "choices": choices}
    cold = post(server, "/v1/score_choices", {**body, "cache_prompt": False})
    warm = [post(server, "/v1/score_choices", body) for _ in range(2)]
    assert warm[1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 4 * 64
    assert warm[0]["choices"] == warm[1]["choices"] == cold["choices"]
    alone = post(server, "/v1/score_choices", {**body, "choices": choices[:1]})
    assert alone["choices"][0]["token_logprobs"] == cold["choices"][0]["token_logprobs"]


@pytest.mark.parametrize("stride", [128, 64, 20])
def test_perplexity_in_windows(server: ServerProcess, theirs: Any, stride: int) -> None:
    """The loop of Hugging Face's guide "Perplexity of fixed-length models"."""
    token_ids = np.random.default_rng(5).integers(0, VOCAB_SIZE, 301).tolist()
    found = post(server, "/v1/perplexity", {"input": token_ids, "stride": stride})
    nll, num_tokens, previous_end = 0.0, 0, 0
    for begin in range(0, len(token_ids), stride):
        end = min(begin + 128, len(token_ids))
        input_ids = torch.tensor([token_ids[begin:end]])
        labels = input_ids.clone()
        labels[:, : previous_end - begin] = -100
        with torch.no_grad():
            loss = theirs(input_ids, labels=labels).loss.item()
        num_scored = int((labels[:, 1:] != -100).sum())
        nll, num_tokens = nll + loss * num_scored, num_tokens + num_scored
        previous_end = end
        if end == len(token_ids):
            break
    assert found["tokens"] == num_tokens
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nll / num_tokens), rel=1e-5)
