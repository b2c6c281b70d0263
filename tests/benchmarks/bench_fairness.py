"""What one heavy tenant does to nine light ones: fairness index and first-token times.

    python -m tests.benchmarks.bench_fairness --model models/minnow
    python -m tests.benchmarks.bench_fairness --model models/smollm2.gguf --seconds 15

Starts a server of its own with ten keys. Latency: each light tenant asks a little now and then,
alone and beside a flood of the heavy one, both sides in turn. Index: all ten have more open than
there are rows; Jain's index of the weighted tokens (prompt 1, output 2) that each was served.
Prints a line for each and all numbers as JSON. Sends to loopback only.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.serving import ROOT, serving

OUTPUT_WEIGHT = 2
NUM_LIGHT = 9
HEAVY_OPEN = 64
KEYS = {"heavy": "key-heavy", **{f"light-{i}": f"key-light-{i}" for i in range(NUM_LIGHT)}}
WORDS = "little red fish swam to the big old boat and saw seven birds".split()  # noqa: SIM905


@dataclass
class Tenant:
    """What one key sends, and what it got."""

    name: str
    num_open: int
    num_words: int = 16
    output: int = 16
    pause_s: float = 0.0
    """Mean, between an answer and the next request."""
    first_token_s: list[float] = field(default_factory=list)
    served: int = 0
    refused: int = 0

    def body(self, rng: random.Random) -> bytes:
        prompt = " ".join(rng.choice(WORDS) for _ in range(self.num_words))
        fields: dict[str, Any] = {
            "prompt": prompt, "max_tokens": self.output, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, "seed": rng.randrange(1 << 30),
        }  # fmt: skip
        return json.dumps(fields).encode()


async def ask(port: int, tenant: Tenant, body: bytes) -> None:
    """One streamed request; counts tokens as they come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\n"
            + f"Authorization: Bearer {KEYS[tenant.name]}\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        sent_s = time.perf_counter()
        is_first, tail = True, b""
        while piece := await reader.read(1 << 16):
            num_tokens = piece.count(b'"choices":[{')
            if num_tokens and is_first:
                is_first = False
                tenant.first_token_s.append(time.perf_counter() - sent_s)
            tenant.served += OUTPUT_WEIGHT * num_tokens
            tail = (tail + piece)[-2000:]
        if b'"usage":{"prompt_tokens":' in tail:
            usage = json.loads(tail[tail.rindex(b'"usage":') + 8 :].split(b"}}")[0] + b"}}")
            tenant.served += (
                usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
            )
        elif is_first:
            tenant.refused += 1
    finally:
        writer.close()


async def client(port: int, tenant: Tenant, seed: str) -> None:
    rng = random.Random(seed)
    while True:
        if tenant.pause_s:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * tenant.pause_s)
        await ask(port, tenant, tenant.body(rng))


async def run(port: int, tenants: list[Tenant], warm_s: float, seconds: float, seed: int) -> None:
    """The load of all tenants; what they count is of the time after `warm_s`."""
    tasks = [
        asyncio.create_task(client(port, tenant, f"{seed} {tenant.name} {number}"))
        for tenant in tenants
        for number in range(tenant.num_open)
    ]
    await asyncio.sleep(warm_s)
    for tenant in tenants:
        tenant.served = tenant.refused = 0
        tenant.first_token_s.clear()
    await asyncio.sleep(seconds)
    counts = [(tenant.served, tenant.refused, list(tenant.first_token_s)) for tenant in tenants]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for tenant, (served, refused, first_token_s) in zip(tenants, counts, strict=True):
        tenant.served, tenant.refused, tenant.first_token_s = served, refused, first_token_s
    await asyncio.sleep(0.5)


def light(num_open: int, output: int, pause_s: float = 0.0) -> list[Tenant]:
    return [
        Tenant(f"light-{i}", num_open, output=output, pause_s=pause_s) for i in range(NUM_LIGHT)
    ]


def fairness_index(shares: list[int]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares) or 1)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


async def latency(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """First tokens of the light tenants, in ms, with and without the heavy one, in turn."""
    waits: dict[bool, list[float]] = {False: [], True: []}
    heavy_tokens = 0
    for number in range(options.rounds):
        for with_heavy in (False, True):
            tenants = light(1, output=16, pause_s=options.pause)
            heavy = Tenant("heavy", HEAVY_OPEN, output=256)
            all_of_them = [heavy, *tenants] if with_heavy else tenants
            await run(port, all_of_them, 1.5, options.seconds, number)
            waits[with_heavy] += [wait for t in tenants for wait in t.first_token_s]
            heavy_tokens += heavy.served // OUTPUT_WEIGHT
    alone, beside = (statistics.median(waits[side]) * 1000 for side in (False, True))
    return {
        "alone_p50_ms": round(alone, 2),
        "beside_p50_ms": round(beside, 2),
        "ratio": round(beside / alone, 2),
        "alone_p95_ms": round(quantile(waits[False], 0.95) * 1000, 2),
        "beside_p95_ms": round(quantile(waits[True], 0.95) * 1000, 2),
        "num_alone": len(waits[False]),
        "num_beside": len(waits[True]),
        "heavy_tokens_per_s": round(heavy_tokens / (options.rounds * options.seconds)),
    }


async def shares(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """What all ten were served while each had more open than its share of the rows."""
    tenants = [Tenant("heavy", HEAVY_OPEN, output=256), *light(10, output=48)]
    await run(port, tenants, 3.0, 2 * options.seconds, 99)
    served = {tenant.name: tenant.served for tenant in tenants}
    return {
        "index": round(fairness_index(list(served.values())), 4),
        "served": served,
        "refused": sum(tenant.refused for tenant in tenants),
    }


async def measure(port: int, options: argparse.Namespace) -> dict[str, Any]:
    await run(port, light(1, output=16), 0.0, 1.0, -1)  # warm-up
    return {"latency": await latency(port, options), "shares": await shares(port, options)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "models" / "minnow"), help="folder or file")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each side of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.2, help="of a light tenant, seconds")
    options = parser.parse_args()
    os.environ["SHOAL_API_KEYS"] = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    with serving([options.model]) as (_, port):
        result = asyncio.run(measure(port, options))
    waits, index = result["latency"], result["shares"]["index"]
    print(
        f"first token of nine light tenants, p50: {waits['alone_p50_ms']} ms alone, "
        f"{waits['beside_p50_ms']} ms beside a heavy one, ratio {waits['ratio']}"
    )
    print(f"Jain's index of ten tenants that all wait: {index}")
    print(json.dumps({"model": Path(options.model).name, **result}))


if __name__ == "__main__":
    main()
