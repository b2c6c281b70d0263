"""Who may call: keys in three headers, one answer to all that is wrong, Host names, CORS, ids."""

import hashlib
import hmac
from pathlib import Path

import pytest
from starlette.routing import Route

from shoal.errors import ConfigError
from shoal.server import auth
from shoal.server.auth import KeyRing, is_open
from tests.fakes.http_app import serve
from tests.http.building import error_of, refused, serve_script

KEYS = ["ann:key-a", "bob:sha256:" + hashlib.sha256(b"key-b").hexdigest(), "key-c"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer key-a"},
        {"Authorization": "bearer key-b"},
        {"x-api-key": "key-a"},
        {"api-key": "key-c"},
    ],
)
async def test_a_key_may_come_in_any_of_three_headers(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with serve(tmp_path, api_keys=KEYS) as served:
        assert (await served.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer key-x"},
        {"Authorization": "Bearer"},
        {"Authorization": "key-a"},
        {"Authorization": "Basic a2V5LWE="},
        {"x-api-key": ""},
        {"x-api-key": "ann:key-a"},
        {"x-api-key": hashlib.sha256(b"key-b").hexdigest()},
        {"x-api-key": "sha256:" + hashlib.sha256(b"key-b").hexdigest()},
        {"Authorization": "Bearer " + "x" * 20_000},
        {"api-key": "k\xe9y"},
    ],
)
async def test_every_wrong_key_gets_the_same_answer(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with serve(tmp_path, api_keys=KEYS) as served:
        reference = await served.client.get("/v1/models")
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        response = await served.client.get("/v1/models", headers=raw)
        refused(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.content == reference.content


async def test_every_route_needs_a_key_but_the_health_ones(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=KEYS) as served:
        paths = set(served.app.openapi()["paths"]) | {
            route.path for route in served.app.routes if isinstance(route, Route)
        }
        paths |= {"/docs", "/static-offline-docs/swagger-ui.css", "/nope", "//livez", "/livez/",
                  "/LIVEZ", "/livez/x", "/health/../v1/models", "/livez/../v1/models"}  # fmt: skip
        assert len(paths) > 15
        for path in sorted(paths):
            concrete = path.replace("{model_id}", "tiny").replace("{model_id:path}", "tiny")
            for method in ("GET", "POST"):
                response = await served.client.request(method, concrete)
                if is_open(method, response.request.url.path):  # "//livez" asks for "/"
                    assert response.status_code != 401, concrete
                else:
                    assert response.status_code == 401, concrete


async def test_a_forged_host_opens_nothing(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=KEYS) as served:
        for host in ("127.0.0.1/livez", "x@127.0.0.1", "/livez", "127.0.0.1#"):
            response = await served.client.get("/v1/models", headers={"host": host})
            assert response.status_code == 401


def test_all_keys_are_compared_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No early exit: the time tells nothing about which key was near."""
    compared: list[bytes] = []
    really_compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return really_compare(a, b)

    ring = KeyRing(KEYS)
    monkeypatch.setattr(auth.hmac, "compare_digest", counting)
    for presented, owner in (("key-a", "ann"), ("key-c", "key-3")):
        compared.clear()
        assert ring.find({"x-api-key": presented}).name == owner
        assert len(compared) == 3


def test_keys_are_kept_as_hashes_only() -> None:
    ring = KeyRing(KEYS)
    assert "key-a" not in repr(vars(ring))
    assert ring.find({"x-api-key": "key-b"}).name == "bob"
    assert not KeyRing([])


@pytest.mark.parametrize("entry", ["ann:", "ann:sha256:12", "ann:sha256:" + "x" * 64])
def test_a_bad_key_entry_is_named_by_its_place_not_its_text(entry: str) -> None:
    with pytest.raises(ConfigError, match="entry 2"):
        KeyRing(["good", entry])


async def test_each_key_is_its_own_tenant(tmp_path: Path) -> None:
    """And prefix reuse does not cross from one to the other."""
    async with serve_script(tmp_path, "ab", api_keys=KEYS) as (served, _):
        cached = []
        for key in ("key-a", "key-a", "key-b"):
            response = await served.client.post(
                "/v1/completions", json={"prompt": "x" * 33}, headers={"x-api-key": key}
            )
            usage = response.json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 32, 0]


# --- without keys: this machine only -------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]:8000"]
)
async def test_loopback_names_are_answered(tmp_path: Path, host: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.get("/v1/models", headers={"host": host})
        assert response.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "localhost@evil",
             "[::1].evil", "127.0.0.1 evil"],
)  # fmt: skip
async def test_other_names_are_refused_everywhere(tmp_path: Path, host: str) -> None:
    """A page in a browser cannot reach a local server under its own name (DNS rebinding)."""
    async with serve(tmp_path) as served:
        for path in ("/v1/models", "/docs", "/metrics"):
            response = await served.client.get(path, headers={"host": host})
            refused(response, 403, "insufficient_permissions")
        for path in auth.OPEN_PATHS:  # probes come under any name
            response = await served.client.get(path, headers={"host": host})
            assert response.status_code == 200, path


async def test_any_name_is_answered_when_the_operator_says_so(tmp_path: Path) -> None:
    async with serve(tmp_path, allow_unauthenticated=True) as served:
        response = await served.client.get("/v1/models", headers={"host": "my.server"})
        assert response.status_code == 200


# --- browsers ------------------------------------------------------------------------------------

PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


async def test_cors_is_off_by_default(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.get("/v1/models", headers={"Origin": "https://a.example"})
        assert not [name for name in response.headers if name.startswith("access-control")]
        preflight = await served.client.options("/v1/completions", headers=PREFLIGHT)
        refused(preflight, 405, "method_not_allowed")


async def test_listed_origins_may_call_and_others_not(tmp_path: Path) -> None:
    async with serve(tmp_path, cors_origins=["https://a.example"], api_keys=KEYS) as served:
        preflight = await served.client.options("/v1/completions", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        other = await served.client.options(
            "/v1/completions", headers={**PREFLIGHT, "Origin": "https://b.example"}
        )
        assert "access-control-allow-origin" not in other.headers
        refusal = await served.client.get("/v1/models", headers={"Origin": "https://a.example"})
        assert refusal.status_code == 401
        assert refusal.headers["access-control-allow-origin"] == "https://a.example"


# --- request ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc", "A-1._:x", "x" * 128])
async def test_a_good_request_id_is_given_back_everywhere(tmp_path: Path, given: str) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        served.client.headers["X-Request-Id"] = given
        for response in (
            await served.complete(),
            await served.complete(stream=True),
            await served.complete(top_p=7),
            await served.client.get("/nope"),
            await served.client.get("/livez"),
            await served.client.get("/v1/models", headers={"host": "evil"}),
        ):
            assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\x1bb", "é", "a/b", "x" * 100_000])
async def test_any_other_request_id_is_replaced(tmp_path: Path, given: str) -> None:
    async with serve(tmp_path) as served:
        headers = {"X-Request-Id": given.encode("latin-1")}
        response = await served.client.get("/nope", headers=headers)
        error_of(response)
        assert len(response.headers["x-request-id"]) == 32
        assert response.headers["x-request-id"] != given


async def test_the_response_id_is_not_the_request_id(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        response = await served.complete()
        assert response.headers["x-request-id"] not in response.json()["id"]
