"""Every POST route refuses what is not JSON, numbers that are none, and names of other things."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.http_app import Served
from tests.faults.real_server import server
from tests.http import bad_requests as bad
from tests.http.building import nothing_left, serve_script

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serve_script(tmp_path_factory.mktemp("models"), "ab") as (served, _):
        yield served


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["app", pytest.param("python -O", marks=pytest.mark.faults)],
)
async def client(
    request: pytest.FixtureRequest, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """Of the app, and of a whole server without assertions."""
    if request.param == "app":
        yield served.client
        nothing_left(served)
        return
    with server(tmp_path_factory.mktemp("server") / "log", "-O") as url:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            yield client


async def post(client: httpx.AsyncClient, route: str, body: bytes) -> httpx.Response:
    return await client.post(route, content=body, headers=bad.JSON)


async def test_what_is_no_json_object_is_refused(client: httpx.AsyncClient) -> None:
    for route, body in (await bad.examples(client)).items():
        for content in bad.NOT_JSON:
            response = await post(client, route, content)
            bad.check_refusal(response, 400)
            if route.startswith("/v1/") and not route.startswith("/v1/messages"):
                assert response.json()["error"]["code"] == "invalid_json"
        for raw in bad.NOT_A_VALUE:
            content = bad.with_field(body, ("zoo",), raw)
            bad.check_refusal(await post(client, route, content), 400)


async def test_integers_that_a_parser_would_round_are_refused(client: httpx.AsyncClient) -> None:
    for route, body in (await bad.examples(client)).items():
        for number in bad.TOO_LARGE_INTEGERS:
            for raw in (str(number), f'[{{"a": {number}}}]'):
                message = bad.check_refusal(
                    await post(client, route, bad.with_field(body, ("zoo",), raw)), 400
                )
                assert "zoo holds an integer" in message


async def test_numbers_are_numbers_and_in_their_range(client: httpx.AsyncClient) -> None:
    bodies = await bad.examples(client)
    fields = list(await bad.number_fields(client))
    assert len({route for route, _ in fields}) > 8
    assert len(fields) > 100
    for route, path in fields:
        for raw in bad.NOT_A_NUMBER:
            if path[-1] == "keep_alive" and raw.startswith('"'):
                continue  # a duration is a text, too
            response = await post(client, route, bad.with_field(bodies[route], path, raw))
            bad.check_refusal(response, 400)
        for raw in bad.OUT_OF_RANGE:
            response = await post(client, route, bad.with_field(bodies[route], path, raw))
            assert response.status_code < 500, (route, path, raw, response.text)


async def test_names_of_models_are_looked_up_and_nothing_else(client: httpx.AsyncClient) -> None:
    for route, body in (await bad.examples(client)).items():
        for name in bad.MODEL_NAMES:
            response = await post(client, route, json.dumps({**body, "model": name}).encode())
            message = bad.check_refusal(response)
            assert len(message) < 1000


async def test_errors_are_short_and_echo_little(client: httpx.AsyncClient) -> None:
    secret = "Z" * 3000
    for route, body in (await bad.examples(client)).items():
        for name in body:
            for value in (secret, [secret], {secret: secret}, [[secret]], [{secret: 1}]):
                content = json.dumps({**body, name: value}).encode()
                response = await post(client, route, content)
                assert response.status_code < 500
                if response.status_code >= 400:
                    bad.check_refusal(response)
                    assert response.text.count("Z") <= 200, (route, name, response.text)


async def test_compressed_bodies_are_415_that_name_the_header(client: httpx.AsyncClient) -> None:
    for route, body in (await bad.examples(client)).items():
        for coding in ("gzip", "br", "GZIP, identity"):
            response = await client.post(
                route, content=json.dumps(body), headers={**bad.JSON, "content-encoding": coding}
            )
            assert "Content-Encoding" in bad.check_refusal(response, 415)
        plain = await client.post(
            route, content=b"{", headers={**bad.JSON, "content-encoding": "identity"}
        )
        bad.check_refusal(plain, 400)


SEEDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "/v1/completions": ({"prompt": "x", "max_tokens": 1}, ("seed",)),
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "x"}]}, ("seed",)),
    "/v1/responses": ({"input": "x"}, ("seed",)),
    "/v1/messages": ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}, ("seed",)),
    "/api/generate": ({"model": "tiny", "prompt": "x", "stream": False}, ("options", "seed")),
    "/api/chat": (
        {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": False},
        ("options", "seed"),
    ),
    "/generate": ({"inputs": "x"}, ("parameters", "seed")),
}


@pytest.mark.parametrize("route", SEEDS)
async def test_a_seed_arrives_as_it_was_sent_or_is_refused(tmp_path: Path, route: str) -> None:
    seen: list[int] = []

    def script(prompt: list[int], sampling: Any) -> list[int]:
        seen.append(sampling.seed)
        return [97]

    async with serve_script(tmp_path, script) as (served, _):
        body, path = SEEDS[route]
        for seed in (0, 7, 2**53 + 1, 2**63 - 1):
            seen.clear()
            response = await post(served.client, route, bad.with_field(body, path, str(seed)))
            assert response.status_code == 200, response.text
            assert set(seen) == {seed}
        for raw in ("9223372036854775808", "-9223372036854775809", "9007199254740994.0", "1e17",
                    "18446744073709551616"):  # fmt: skip
            response = await post(served.client, route, bad.with_field(body, path, raw))
            assert "seed" in bad.check_refusal(response, 400)
