"""What no POST route may take, as tables: run against the app and against a whole server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

JSON = {"content-type": "application/json"}
HIDDEN = {
    "/v1/tokenize": {"prompt": "x"},
    "/v1/detokenize": {"tokens": [1]},
    "/generate_stream": {"inputs": "x"},
}
"""Routes that the API's document leaves out, with bodies."""
LEAKS = ("Traceback", "0x", ".py", "pydantic", "shoal.", "Input should", "instance of", "/home",
         "site-packages")  # fmt: skip

# Not JSON, or not the JSON of an object that says one thing. {} stands for more fields.
NOT_JSON = [
    b"", b" ", b"{", b"{} {}", b"nul", b'{"a": 1,}', b"{'a': 1}", b"\xff\xfe{\x00}\x00",
    b'\xef\xbb\xbf{"prompt": "x"}', b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "\xe9"}',
    '{"prompt": "x"}'.encode("utf-16"), '{"prompt": "x"}'.encode("utf-32"),
    b'{"prompt": "a\nb"}', b'{"prompt": "\x00"}', b"[" * 5000, b'{"a":' * 5000,
    b"[1]", b'"x"', b"7", b"null", b"true", b"NaN",
]  # fmt: skip
NOT_A_VALUE = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400 + ".5", "01", "+1", ".5", "1.",
    "0x10", '"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800": 1}', '["\\udfff"]',
    "1" * 5000, "1" * 5000 + "e",
    "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, '{"a":1,"a":2}', '[1,{"b":{},"b":{}}]',
]  # fmt: skip
TOO_LARGE_INTEGERS = [2**64, -(2**63) - 1, 10**30, -(10**300)]
# For a field that is a number: in its place these are refused everywhere.
NOT_A_NUMBER = ['"nan"', '"inf"', '"7"', "true", "[]", "{}", '"\\u0661"', "[7]"]
OUT_OF_RANGE = ["-1e300", "1e300", "1000000000000", "-1000000000000", "1e18", "9223372036854775807"]
MODEL_NAMES = ["../../etc/passwd", "%2e%2e/", "\x00", "a\nb", "m" * 100_000, "tiny/../tiny", " ",
               "\u202etiny", "{{7*7}}", "'; --"]  # fmt: skip


async def examples(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """Route to a good body, of every POST route with a body but those of the admin."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    found = {
        path: operations["post"]["requestBody"]["content"]["application/json"]["example"]
        for path, operations in paths.items()
        if "requestBody" in operations.get("post", {}) and not path.startswith("/admin")
    }
    return found | HIDDEN


async def number_fields(client: httpx.AsyncClient) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(route, path of a number in its body), also in objects within it."""
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]

    def numbers(schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for part in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
            if "$ref" in part:
                yield from numbers(schemas[part["$ref"].rsplit("/")[-1]], path)
            if part.get("type") in ("number", "integer"):
                yield path
            for name, inner in part.get("properties", {}).items():
                yield from numbers(inner, (*path, name))

    return (
        (route, path)
        for route, operations in document["paths"].items()
        if "requestBody" in operations.get("post", {}) and not route.startswith("/admin")
        for path in numbers(
            operations["post"]["requestBody"]["content"]["application/json"]["schema"], ()
        )
    )


def with_field(body: dict[str, Any], path: tuple[str, ...], raw: str) -> bytes:
    """The body with a field that is written by hand; `path` leads to it through objects."""
    first, *rest = path
    if rest:
        inner = body.get(first)
        held = with_field(inner if isinstance(inner, dict) else {}, tuple(rest), raw).decode()
    else:
        held = raw
    others = json.dumps({name: value for name, value in body.items() if name != first})[1:-1]
    return f'{{{others}{", " if others else ""}"{first}": {held}}}'.encode()


def check_refusal(response: httpx.Response, status: int | None = None) -> str:
    """The message of an error answer of any API; checks that nothing internal leaks."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:300])
    if status is not None:
        assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"]
    assert len(response.content) <= 4096
    for leak in LEAKS:
        assert leak not in response.text, (leak, response.text[:300])
    error = response.json()["error"]
    message = error["message"] if isinstance(error, dict) else error
    assert isinstance(message, str)
    assert message
    return message
