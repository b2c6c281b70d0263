"""Sampling options on a real server: the same tokens alone and in a batch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama

OPTIONS: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 2},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1},
    {"allowed_token_ids": [97, 98, 99, 100]},
    {"allowed_token_ids": [97, 98], "dry_multiplier": 2.0, "no_repeat_ngram_size": 4},
    {"allowed_token_ids": [97, 98], "stop_on_loop": {"min_repeats": 3, "max_period": 4}},
    {"logit_bias": {"a": 5, "b": -100}, "repetition_penalty": 1.3},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = write_tiny_llama(tmp_path_factory.mktemp("identity") / "tiny")
    # The KV memory does not hold all these requests at once.
    with serve_process(folder, "--kv-cache-bytes", str(1 << 20)) as server:
        yield server


def token_ids(server: ServerProcess, number: int) -> list[int]:
    body = {
        "prompt": f"{number} " + "abc " * 40, "max_tokens": 60, "seed": number, "temperature": 1.0,
        "min_tokens": 20, "return_token_ids": True, "ignore_eos": True,
        **OPTIONS[number % len(OPTIONS)],
    }  # fmt: skip
    response = httpx.post(server.url + "/v1/completions", json=body, timeout=120)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:  # two ids and no 4-gram twice: at some time none is left
        assert "no token is left" in response.text
        return []
    ids: list[int] = response.json()["choices"][0]["token_ids"]
    return ids


def test_tokens_do_not_depend_on_the_company(server: ServerProcess) -> None:
    alone = [token_ids(server, number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda number: token_ids(server, number), range(12)))
    assert together == alone
    for number, ids in enumerate(alone):
        pairs = list(pairwise(ids))
        if number % len(OPTIONS) == 0:
            assert len(set(pairs)) == len(pairs)
        if number % len(OPTIONS) in (2, 3, 4):
            assert set(ids) <= {97, 98, 99, 100}
        if number % len(OPTIONS) == 5:
            assert 98 not in ids
