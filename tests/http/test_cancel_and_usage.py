"""Cancelling a request by its id, and what tenants have used."""

import asyncio
from pathlib import Path
from typing import Any

from shoal.server.usage import MAX_DAYS, UsageLedger
from shoal.text.generator import Usage
from tests.http.building import (
    AsgiCall,
    Gate,
    Served,
    nothing_left,
    records,
    refused,
    serve_script,
    settle,
)

KEYS = {"api_keys": ["ann:a", "bob:b"], "admin_keys": ["root:r"]}


def key(secret: str, request_id: str | None = None) -> dict[str, str]:
    named = {"x-request-id": request_id} if request_id else {}
    return {"authorization": f"Bearer {secret}", **named}


async def cancel(served: Served, request_id: str, secret: str = "a") -> Any:
    return await served.client.post(f"/v1/requests/{request_id}/cancel", headers=key(secret))


async def test_a_cancelled_answer_has_what_was_generated(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abcdefgh" * 9, **KEYS) as (served, _):
        gate = Gate(served)
        body = {"prompt": "x", "max_tokens": 60, "n": 2}
        plain = asyncio.create_task(
            served.client.post("/v1/completions", json=body, headers=key("a", "one"))
        )
        stream = AsgiCall(served, "/v1/completions", {**body, "stream": True}, key("a", "two"))
        await settle()
        await gate.allow(6)
        for request_id in ("one", "two"):
            answer = await cancel(served, request_id)
            assert answer.status_code == 200, answer.text
            tokens = answer.json()["tokens_generated"]
            assert answer.json() == {"cancelled": True, "tokens_generated": tokens}
            assert tokens >= 2
        response = await plain
        await stream.task
        for choice in response.json()["choices"]:
            assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "cancelled")
            assert choice["text"]
            assert "abcdefgh".startswith(choice["text"])
        ends = [e["choices"][0] for e in stream.events if e["choices"][0]["finish_reason"]]
        assert [(end["finish_reason"], end["stop_reason"]) for end in ends] == [
            ("length", "cancelled")
        ] * 2
        assert stream.answer.body.endswith(b"data: [DONE]\n\n")
        refused(await cancel(served, "one"), 404, "not_found", "request_id")
        await gate.open()
        nothing_left(served)


async def test_a_waiting_request_can_be_cancelled(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x", **KEYS) as (served, _):
        gate = Gate(served)
        waiting = asyncio.create_task(
            served.client.post("/v1/completions", json={"prompt": "x"}, headers=key("a", "w"))
        )
        await settle()
        assert (await cancel(served, "w")).json()["tokens_generated"] == 0
        assert (await waiting).json()["choices"][0]["text"] == ""
        await gate.open()
        nothing_left(served)


async def test_only_the_owner_and_the_admin_may_cancel(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x", **KEYS) as (served, _):
        gate = Gate(served)
        tasks = [
            asyncio.create_task(
                served.client.post("/v1/completions", json={"prompt": "x"}, headers=key("a", name))
            )
            for name in ("p", "q")
        ]
        await settle()
        refused(await cancel(served, "p", "b"), 404, "not_found", "request_id")
        refused(await cancel(served, "p", "wrong"), 401, "invalid_api_key")
        assert (await cancel(served, "p", "r")).status_code == 200
        await gate.open()
        stop_reasons = [(await t).json()["choices"][0]["stop_reason"] for t in tasks]
        assert stop_reasons == ["cancelled", None]


async def test_usage_is_counted_per_tenant_and_model(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "hello", **KEYS) as (served, _):
        for secret, count in (("a", 2), ("b", 1)):
            for _ in range(count):
                await served.client.post(
                    "/v1/completions", json={"prompt": "12345678"}, headers=key(secret)
                )
        stream = await served.client.post(
            "/v1/completions", json={"prompt": "1", "stream": True}, headers=key("b")
        )
        assert records(stream)

        async def seen(secret: str) -> Any:
            answer = (await served.client.get("/v1/usage", headers=key(secret))).json()
            return [
                (row["tenant"], row["model"], row["requests"], row["prompt_tokens"],
                 row["completion_tokens"], row["cached_tokens"]) for row in answer["data"]
            ]  # fmt: skip

        ann, bob = ("ann", "tiny", 2, 16, 12, 4), ("bob", "tiny", 2, 9, 12, 0)
        assert await seen("a") == [ann]
        assert await seen("b") == [bob]
        assert await seen("r") == [ann, bob]
        refused(await served.client.get("/v1/usage"), 401, "invalid_api_key")


def test_the_ledger_does_not_grow_for_ever() -> None:
    now = [0.0]
    ledger = UsageLedger(lambda: now[0])
    for day in range(MAX_DAYS + 5):
        now[0] = day * 86400.0
        ledger.record("t", "m", Usage(1), cpu_seconds=0.5)
        ledger.record("t", "m", Usage(1), cpu_seconds=0.5, cost=2.0)
    rows = ledger.rows("t")
    assert len(rows) == MAX_DAYS
    assert rows[0]["day"] == "1970-01-06"
    assert (rows[0]["requests"], rows[0]["cpu_seconds"], rows[0]["est_cost"]) == (2, 1.0, 2.0)
    for tenant in range(20_000):
        ledger.record(str(tenant), "m", Usage(1))
    assert len(ledger.rows(None)) == 10_000
    assert ledger.rows("19999")
