"""Keys with roles, rights and limits: what each may do, what it is told, and who its tenant is."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.errors import ConfigError
from shoal.protocol.messages import Submit
from shoal.server.auth import KeyRing
from shoal.server.keys import read_keys_file
from shoal.server.tenants import cache_salt
from tests.fakes.http_app import Served
from tests.http.building import AsgiCall, Gate, nothing_left, refused, serve_script, settle

FILE = """
[[keys]]
name = "ann"
key = "key-of-ann"
models = ["a"]
weight = 3.0

[[keys]]
name = "bob"
key = "key-of-bob"
{bob}

[[keys]]
name = "web"
key = "key-of-web"
role = "gateway"

[[keys]]
name = "root"
key = "key-of-root"
role = "admin"
max_priority = -10
"""


def key_of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-of-{name}"}


def write(folder: Path, bob: str = "") -> Path:
    path = folder / "keys.toml"
    path.write_text(FILE.format(bob=bob))
    path.chmod(0o600)
    return path


@asynccontextmanager
async def serve_keys(folder: Path, bob: str = "", **settings: Any) -> AsyncIterator[Served]:
    settings.setdefault("names", ("a", "b"))
    async with serve_script(folder, "ab", keys_file=write(folder, bob), **settings) as (served, _):
        yield served


async def complete(
    served: Served, name: str, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": "a", "prompt": "x", "max_tokens": 2, **fields}
    return await served.client.post(
        "/v1/completions", json=body, headers={**key_of(name), **(headers or {})}
    )


def submits(served: Served) -> list[Submit]:
    """What is submitted from now on."""
    engine: Any = served.services.client
    submit, seen = engine.submit, []

    def noting(message: Submit, sink: Any) -> None:
        seen.append(message)
        submit(message, sink)

    engine.submit = noting
    return seen


# --- rights --------------------------------------------------------------------------------------


async def test_a_key_sees_and_uses_its_models_only(tmp_path: Path) -> None:
    async with serve_keys(tmp_path) as served:
        assert (await complete(served, "ann")).status_code == 200
        for response in (
            await complete(served, "ann", model="b"),
            await complete(served, "ann", model="b", stream=True),
            await served.client.get("/v1/models/b", headers=key_of("ann")),
            await served.client.post(
                "/tokenize", json={"model": "b", "prompt": "x"}, headers=key_of("ann")
            ),
            await served.client.get("/tokenizer_info?model=b", headers=key_of("ann")),
        ):
            refused(response, 403, "insufficient_permissions", param="model")
            assert response.json()["error"]["type"] == "permission_error"
            assert response.json()["error"]["hint"] == "it may use: a"
        for name, ids in (("ann", ["a"]), ("bob", ["a", "b"])):
            listed = await served.client.get("/v1/models", headers=key_of(name))
            assert [model["id"] for model in listed.json()["data"]] == ids
        unknown = await complete(served, "ann", model="nope")
        refused(unknown, 404, "model_not_found", param="model")
        assert "known models: a" in unknown.text
        assert "a, b" not in unknown.text
        nothing_left(served)


async def test_an_admin_of_the_file_opens_admin_routes_and_others_do_not(tmp_path: Path) -> None:
    async with serve_keys(tmp_path) as served:
        reload = "/admin/keys/reload"
        assert (await served.client.post(reload, headers=key_of("root"))).json()["num_keys"] == 4
        for name in ("bob", "web"):
            denied = await served.client.post(reload, headers=key_of(name))
            refused(denied, 403, "insufficient_permissions")
        refused(await served.client.post(reload), 401, "invalid_api_key")
        assert (await complete(served, "root")).status_code == 200


async def test_keys_of_the_setting_have_no_right_to_go_before_others(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", api_keys=["ann:key-a"]) as (served, _):
        seen = []
        submit = served.services.client.submit
        served.services.client.submit = lambda message, sink: (  # type: ignore[method-assign]
            seen.append(message.priority),
            submit(message, sink),
        )
        for route, body in (("completions", {"prompt": "x"}), ("responses", {"input": "x"})):
            response = await served.client.post(
                f"/v1/{route}",
                json={**body, "priority": -10},
                headers={"x-api-key": "key-a"},
            )
            assert response.status_code == 200
        assert seen == [0, 0]


async def test_priority_is_clamped_to_the_right_of_the_key_and_said(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, bob="max_priority = 2") as served:
        seen = submits(served)
        answers = [
            await complete(served, "ann", priority=-5),  # a file's keys have 0 unless it says more
            await complete(served, "ann", priority=7),
            await complete(served, "bob"),
            await complete(served, "root", priority=-9),
        ]
        assert [submit.priority for submit in seen] == [0, 7, 2, -9]
        told = [answer.headers.get("x-ignored-params") for answer in answers]
        assert told == ["priority", None, None, None]
        assert [submit.weight for submit in seen] == [3.0, 3.0, 1.0, 1.0]


# --- tenants -------------------------------------------------------------------------------------


async def test_a_gateways_tenant_is_split_by_trusted_header_or_user(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, tenant_header="X-OpenWebUI-User-Id") as served:
        seen = submits(served)
        header = {"x-openwebui-user-id": "u1"}
        await complete(served, "web")
        await complete(served, "web", header)
        await complete(served, "web", header, user="u2")  # the header wins
        await complete(served, "web", user="u2")
        await complete(served, "web", user="u1")
        await complete(served, "bob", header, user="u1")  # no gateway: its word does not count
        tenants = [submit.tenant for submit in seen]
        assert tenants[0] == "web"
        assert tenants[1] == tenants[2] == tenants[4]
        assert len({*tenants[:4]}) == 3
        assert tenants[5] == "bob"
        assert "u1" not in "".join(tenants)


async def test_without_the_setting_no_header_splits_a_tenant(tmp_path: Path) -> None:
    async with serve_keys(tmp_path) as served:
        seen = submits(served)
        await complete(served, "web", {"X-OpenWebUI-User-Id": "u1"})
        assert seen[0].tenant == "web"


async def test_no_salt_of_one_tenant_reads_anothers_cache(tmp_path: Path) -> None:
    async with serve_keys(tmp_path) as served:

        async def cached(name: str, **fields: Any) -> int:
            answer = await complete(served, name, prompt="x" * 40, **fields)
            usage: dict[str, Any] = answer.json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert await cached("ann") == 0
        assert await cached("ann") > 0
        for salt in ("ann", cache_salt("ann", None)):
            assert await cached("bob", cache_salt=salt) == 0
        assert await cached("ann", cache_salt="s") == 0
        assert await cached("ann", cache_salt="s") > 0
        assert await cached("bob", cache_salt="s") == 0


def test_salts_of_different_tenants_never_meet() -> None:
    names = ["a", "a:", "a:b", "1:a", "", ":"]
    salts = [None, "a", "b:", ":b", "a:b:c"]
    assert len({cache_salt(name, salt) for name in names for salt in salts}) == 30


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_per_minute(tmp_path: Path, stream: bool) -> None:
    async with serve_keys(tmp_path, bob="requests_per_minute = 2") as served:
        first = await complete(served, "bob", stream=stream)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        refusal = await complete(served, "bob", top_p=7)  # before it counts
        assert refusal.headers["x-ratelimit-remaining-requests"] == "1"
        assert (await complete(served, "bob")).status_code == 200
        third = await complete(served, "bob", stream=stream)
        refused(third, 429, "rate_limit_exceeded")
        assert third.json()["error"]["type"] == "rate_limit_error"
        assert 25 <= int(third.headers["retry-after"]) <= 36
        assert int(third.headers["retry-after-ms"]) <= 36_000
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        other = await complete(served, "ann")
        assert other.status_code == 200
        assert "x-ratelimit-limit-requests" not in other.headers
        nothing_left(served)


async def test_tokens_per_minute_count_output_afterwards(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, bob="tokens_per_minute = 20") as served:
        first = await complete(served, "bob", prompt="x" * 10)
        assert first.headers["x-ratelimit-limit-tokens"] == "20"
        models = await served.client.get("/v1/models", headers=key_of("bob"))
        used = first.json()["usage"]["total_tokens"]
        assert models.headers["x-ratelimit-remaining-tokens"] == str(20 - used)
        second = await complete(served, "bob", prompt="x" * 15)
        refused(second, 429, "rate_limit_exceeded")
        assert int(second.headers["retry-after"]) >= 60 * 5 / 20
        assert "x-ratelimit-limit-requests" not in second.headers
        third = await complete(served, "bob", prompt="x" * (20 - used))
        assert third.status_code == 200  # its output leaves a debt
        refused(await complete(served, "bob", prompt="x"), 429, "rate_limit_exceeded")
        nothing_left(served)


async def test_embeddings_count_with_the_limits_and_rights_of_a_key(tmp_path: Path) -> None:
    limits = 'tokens_per_minute = 20\nmodels = ["a", "vectors"]'
    async with serve_keys(tmp_path, bob=limits, encoders=("vectors", "others")) as served:

        async def embed(given: Any, model: str = "vectors") -> httpx.Response:
            body = {"model": model, "input": given}
            return await served.client.post("/v1/embeddings", json=body, headers=key_of("bob"))

        first = await embed([[1] * 8, [2] * 4])
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "20"
        refused(await embed([3] * 9), 429, "rate_limit_exceeded")
        assert (await embed([3] * 8)).status_code == 200
        refused(await embed("x", "others"), 403, "insufficient_permissions", "model")
        nothing_left(served)


async def test_requests_at_the_same_time(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, bob="max_concurrent = 1") as served:
        gate = Gate(served)
        body = {"model": "a", "prompt": "x"}
        running = AsgiCall(served, "/v1/completions", body, key_of("bob"))
        await settle()
        refused(await complete(served, "bob", model="b"), 429, "rate_limit_exceeded")
        gone = AsgiCall(served, "/v1/completions", body, key_of("ann"))
        gone.disconnect()
        await gate.open()
        await asyncio.gather(running.task, gone.task)
        assert (await complete(served, "bob")).status_code == 200
        nothing_left(served)


async def test_a_key_may_have_a_queue_of_its_own(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, bob="max_queue = 2", tenant_max_queue=1) as served:
        gate = Gate(served)
        body = {"model": "a", "prompt": "x", "n": 2}
        running = AsgiCall(served, "/v1/completions", body, key_of("bob"))
        await settle()
        full = await complete(served, "bob")
        refused(full, 429, "tenant_queue_full")
        assert full.headers["x-ratelimit-limit-requests"] == "2"
        refused(await complete(served, "ann", n=2), 400, "invalid_value", "n")
        await gate.open()
        await running.task


async def test_a_flood_of_one_key_leaves_room_for_others(tmp_path: Path) -> None:
    """Nobody but the one that floods is refused, and that one with its own limit."""
    async with serve_keys(tmp_path, max_batch_size=4, max_queue=32) as served:
        gate = Gate(served)
        body = {"model": "a", "prompt": "x", "max_tokens": 2}
        flood = [AsgiCall(served, "/v1/completions", body, key_of("bob")) for _ in range(60)]
        await settle(200)
        others = [
            AsgiCall(served, "/v1/completions", body, key_of(name))
            for name in ("ann", "root", "ann")
        ]
        late = AsgiCall(served, "/v1/completions", body, key_of("bob"))
        await settle(50)
        await gate.open()
        await asyncio.gather(*(call.task for call in (*flood, *others, late)))
        assert [call.answer.status for call in others] == [200] * 3
        statuses = [call.answer.status for call in flood]
        assert (statuses.count(200), statuses.count(503)) == (36, 24)
        assert late.answer.status == 429
        assert b"tenant_queue_full" in late.answer.body
        nothing_left(served)


# --- the file ------------------------------------------------------------------------------------


async def test_a_reload_changes_keys_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, bob="requests_per_minute = 1") as served:
        assert (await complete(served, "bob")).status_code == 200
        path = tmp_path / "keys.toml"
        path.write_text(path.read_text().replace("key-of-ann", "key-of-eve"))
        reload = "/admin/keys/reload"
        assert (await served.client.post(reload, headers=key_of("root"))).status_code == 200
        refused(await complete(served, "ann"), 401, "invalid_api_key")
        assert (await complete(served, "eve")).status_code == 200
        refused(await complete(served, "bob"), 429, "rate_limit_exceeded")  # it is still used up
        for content, words in (("x = [", "TOML"), ("", "no [[keys]]"), ("[[keys]]", "name")):
            path.write_text(content)
            failed = await served.client.post(reload, headers=key_of("root"))
            refused(failed, 400, "invalid_value")
            assert words in failed.json()["error"]["message"]
            assert (await complete(served, "eve")).status_code == 200


KEY = '[[keys]]\nname = "a"\nkey = "secret-canary"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (KEY + 'sha256 = "' + "0" * 64 + '"', "entry 1: entry: give either key or sha256"),
        ('[[keys]]\nname = "a"', "give either key or sha256"),
        (KEY + 'role = "boss"', "entry 1: role"),
        (KEY + "weight = 0", "entry 1: weight"),
        (KEY + 'requests_per_minute = "9"', "requests_per_minute"),
        (KEY + "zoo = 1", "entry 1: zoo"),
        (KEY.replace("secret", " secret"), "entry 1: entry: the key has blanks"),
        (KEY.replace("secret", "s\\u00e9cret"), "entry 1: entry: a key is printable ASCII"),
        (KEY.replace('"a"', '"a:b"'), "entry 1: name"),
        (KEY + KEY, "the name a is there twice"),
        (KEY + KEY.replace('"a"', '"b"'), "a key twice"),
        ("keys = 1", "[[keys]] tables and nothing else"),
        ("a = 1", "[[keys]] tables and nothing else"),
        ("x" * (1 << 21), "larger than"),
        ("\xff", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_by_entry_and_never_shown(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError) as refusal:
        read_keys_file(path)
    assert words in refusal.value.message
    assert "canary" not in refusal.value.message
    assert str(tmp_path) not in refusal.value.message


def test_keys_in_the_clear_that_others_may_read_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(KEY)
    os.chmod(path, 0o644)
    (key,) = read_keys_file(path)
    assert "chmod 600" in caplog.text
    assert "canary" not in repr(key)


async def test_tenants_are_counted_where_it_is_asked_for(tmp_path: Path) -> None:
    async with serve_keys(tmp_path, tenant_metrics=True) as served:
        for name in ("ann", "ann", "bob"):
            await complete(served, name)
        for number in range(60):
            await complete(served, "web", user=f"u{number}", max_tokens=1)
        text = (await served.client.get("/metrics", headers=key_of("bob"))).text
        assert 'shoal_tenant_requests_total{model="a",tenant="ann"} 2.0' in text
        assert 'shoal_tenant_requests_total{model="a",tenant="other"} 12.0' in text
        assert text.count("shoal_tenant_requests_total{") == 51
    async with serve_keys(tmp_path) as served:
        await complete(served, "ann")
        assert "tenant_" not in (await served.client.get("/metrics", headers=key_of("ann"))).text


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("team:secret-canary\n", "blanks or line breaks around it"),
        ("team: secret-canary", "blanks or line breaks around it"),
        ("secret-canary\t", "blanks or line breaks around it"),
        ("secret\u00e9-canary", "printable ASCII"),
        ("secret\x00-canary", "printable ASCII"),
        ("team:\udcffcanary", "printable ASCII"),
        ("a b:secret-canary", "the name before the colon"),
        ("team:", "no key"),
        ("team:sha256:12", "64 hexadecimal digits"),
    ],
)
def test_a_key_that_no_caller_can_send_is_refused_by_its_number(entry: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        KeyRing(["ann:fine", entry], setting="admin_keys")
    assert caught.value.message.startswith("admin_keys entry 2")
    assert "canary" not in caught.value.message
