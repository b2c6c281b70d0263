"""Are two servers the same model? Greedy text of a trained model, side by side.

The default model is converted as the shapes are; different rounding may turn a near tie after many
tokens, so what counts is how much of each text agrees from its start.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from shoal.commands.bench.http import Connection, ExchangeFailed, render_request

from . import llama_server, ours
from .gguf import Format
from .process import Command, Running, ServerFailed, running
from .shapes import ROOT

MODEL = ROOT / "models" / "minnow"
PROMPTS = (
    "Once upon a time, there was a little girl named",
    "The old man took his boat to the",
    "Tom and his dog went to the park. They",
    "It was raining, so Lily",
    "One day a small fish",
)
MAX_TOKENS = 48
START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """`equal` of `total` texts are the same; `shared`: mean share of text before a difference."""

    weights: str
    equal: int
    total: int
    shared: float


def compare(server: Path, weights: Format, *flags: str) -> Agreement:
    """llama-server against Shoal on the default model. Raises ServerFailed."""
    file = llama_server.gguf_file(MODEL, weights)
    theirs = _texts(llama_server.command(server, file, 1, 256))
    mine = _texts(ours.command(MODEL, MODEL.name, *flags))
    shares = [_shared(a, b) / max(len(a), len(b), 1) for a, b in zip(mine, theirs, strict=True)]
    equal = sum(share == 1 for share in shares)
    return Agreement(weights, equal, len(shares), sum(shares) / len(shares))


def _shared(left: str, right: str) -> int:
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _texts(command: Command) -> list[str]:
    async def ask(server: Running) -> list[str]:
        return [await _complete(server, prompt) for prompt in PROMPTS]

    with running(command) as server:
        return asyncio.run(ask(server))


async def _complete(server: Running, prompt: str) -> str:
    body = {"model": MODEL.name, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
    message = render_request(
        server.address,
        "POST",
        "/v1/completions",
        json.dumps({**body, "ignore_eos": True}).encode(),
        api_key="",
        keep_alive=False,
    )
    reason, started_at = "no answer", time.perf_counter()
    while time.perf_counter() - started_at < START_TIMEOUT_S:
        connection = Connection(server.address)
        try:
            response = await connection.exchange(message)
        except ExchangeFailed as error:
            reason = error.kind
        else:
            if response.status == 200:
                return str(json.loads(response.body)["choices"][0]["text"])
            reason = response.body.decode(errors="replace")
        finally:
            connection.close()
        await asyncio.sleep(0.02)
    raise ServerFailed(f"{reason}\n{server.end_of_log()}")
