"""The real app on an engine with a fake runner, in this process and event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from shoal.bridge.local import LocalEngine, now_s
from shoal.config import Settings
from shoal.engine.core import EngineCore
from shoal.metrics import Metrics
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.protocol.step import LoadedRunner, Runner
from shoal.server.admission import Admission
from shoal.server.app import create_app
from shoal.server.auth import KeyRing
from shoal.server.services import Services
from shoal.text.text_model import load_text_model
from tests.fakes.fake_runner import FakeRunner, loaded_model
from tests.fakes.stream_check import StreamCheck
from tests.fakes.text_folder import VOCAB_SIZE, write_encoder_folder, write_text_folder

BLOCK_SIZE = 4
EMBEDDING_SIZE = 6


@dataclass
class Served:
    """An app, the parts behind it and a client that talks to it in memory."""

    app: FastAPI
    services: Services
    core: EngineCore
    client: httpx.AsyncClient

    async def complete(self, prompt: Any = "Once", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"prompt": prompt, **fields})

    async def chat(self, content: str = "Hi", **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def serve(
    folder: Path,
    *,
    names: tuple[str, ...] = ("tiny",),
    encoders: tuple[str, ...] = (),
    num_blocks: int = 4096,
    max_model_len: int = 1024,
    runner: Runner | None = None,
    chat: bool = True,
    generation: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """A served app; `encoders` are further models, which make embeddings and write no text;
    `settings` are those of `Settings`."""
    writers, names = names, (*names, *encoders)
    checked = Settings(models=[f"{name}={folder / name}" for name in names], **settings)
    config = EngineConfig(
        models=(),
        block_size=BLOCK_SIZE,
        max_batch_size=checked.max_batch_size,
        token_budget=checked.token_budget,
    )
    models = {}
    for name in writers:
        write_text_folder(folder / name, chat=chat, **(generation or {}))
        fake = runner or FakeRunner(num_blocks, BLOCK_SIZE, VOCAB_SIZE)
        loaded = loaded_model(name, VOCAB_SIZE, max_model_len)
        models[name] = LoadedRunner(fake, loaded, num_blocks)
    for name in encoders:
        write_encoder_folder(folder / name)
        loaded = loaded_model(
            name, VOCAB_SIZE, max_model_len, embedding_size=EMBEDDING_SIZE, is_encoder=True
        )
        fake = FakeRunner(
            num_blocks, BLOCK_SIZE, VOCAB_SIZE, embedding_size=EMBEDDING_SIZE, is_encoder=True
        )
        models[name] = LoadedRunner(fake, loaded, num_blocks)
    core = EngineCore(models, config, now_s)
    metrics = Metrics(by_tenant=checked.tenant_metrics)
    engine = LocalEngine(core, observer=metrics)
    services = Services(
        settings=checked,
        client=engine,
        models={name: load_text_model(ModelSource(name, str(folder / name))) for name in names},
        admission=Admission(
            engine.stats,
            max_batch_size=checked.max_batch_size,
            max_queue=checked.max_queue,
            max_queue_tokens=checked.max_queue_tokens,
            tenant_max_queue=checked.tenant_max_queue,
            max_wait_s=checked.max_queue_wait,
        ),
        keys=KeyRing(checked.api_keys),
        metrics=metrics,
    )
    services.adapters.configure([ModelSource(name, str(folder / name)) for name in names], ())
    app = create_app(services)
    streams = StreamCheck(app.build_middleware_stack())
    app.middleware_stack = streams
    await engine.start()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        served = Served(app, services, core, client)
        yield served
        await nothing_left_soon(served)
    await engine.close()
    core.check()
    assert streams.problems == []


async def nothing_left_soon(served: Served, limit_s: float = 5.0) -> None:
    """After a test all is given back: places, rows, blocks, open requests. An engine that a test
    holds by hand is left alone."""
    if "step" in vars(served.core):
        return
    end = now_s() + limit_s
    while left := what_is_left(served):
        assert now_s() < end, f"left behind: {left}"
        await asyncio.sleep(0.001)


def what_is_left(served: Served) -> list[str]:
    services = served.services
    counts = {
        "open requests": len(services.open_requests),
        **{f"places of {name}": services.admission.in_flight(name) for name in services.models},
        **{
            f"{what} of {stats.model}": count
            for stats in served.core.stats()
            for what, count in (
                ("running", stats.num_running),
                ("waiting", stats.num_waiting),
                ("blocks", stats.num_used_blocks),
            )
        },
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def sse_events(body: str) -> list[str]:
    """The data of every event in a stream; checks that there is nothing else in it."""
    events = []
    for record in body.split("\n\n"):
        if not record or record.startswith(":"):
            continue
        assert record.startswith("data: ")
        assert "\n" not in record
        events.append(record.removeprefix("data: "))
    return events
