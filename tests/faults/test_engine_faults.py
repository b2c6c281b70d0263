"""The engine stops, hangs, crashes, is left alone, or has too much to say: sections 4 and 5 of the
fault list. A real server, a real engine process, a fake model."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.engine.link import in_parts
from shoal.errors import PoisonRequest
from shoal.protocol import codec
from shoal.protocol.messages import Finished, PromptPart, StepOutputs, TokenLogprobs
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams
from tests.fakes.fake_runner import solo_output
from tests.faults.measured import Measured
from tests.faults.serving import FAKE_ENGINE, ROOT, is_running, server
from tests.unit.bridge.building import Listener, ready, remote_engine, step_outputs
from tests.unit.engine.building import make_submit

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
_SLACK = 3.0
"""What a busy machine may add to a time."""


# --- answers beyond a frame ----------------------------------------------------------------------


def test_an_answer_of_any_length_goes_in_frames_that_are_quick_to_read(measured: Measured) -> None:
    """The log-probabilities of 100,000 prompt tokens with 100 alternatives are 150 MB."""
    entry = TokenLogprobs(1, -1.0, list(range(100_000, 100_100)), [-1.5] * 100)
    entries = [None, *[entry] * 99_999]
    small = [None, *[TokenLogprobs(1, -1.0, [], [])] * 10]
    outputs = step_outputs(
        [1, 2], [5, 6], prompt_logprobs={1: entries, 2: small},
        finished={1: Finished(FinishReason.LENGTH)},
    )  # fmt: skip
    *parts, last = in_parts(outputs)
    longest = max(len(codec.encode(part)) for part in parts[::50])
    measured("longest frame of a 150 MB answer", promised="≤ 64 MiB", measured=f"{longest} bytes")
    assert longest < 1 << 19
    assert isinstance(last, StepOutputs)
    assert last.prompt_logprobs == {1: [], 2: small}
    assert last.finished == outputs.finished
    told = [each for part in parts if isinstance(part, PromptPart) for each in part.prompt_logprobs]
    assert len(told) == len(entries)
    assert told[0] is None


async def test_an_answer_in_parts_comes_whole_and_touches_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with remote_engine(monkeypatch, "num_blocks=6000&max_model_len=24000") as engine:
        await ready(engine)
        pid = engine.pid
        prompt = [i % 60 for i in range(20_000)]
        long, other = Listener(), Listener()
        output = OutputParams(prompt_logprobs=0)
        engine.submit(make_submit(engine.new_seq_id(), prompt, 2, output=output), long)
        engine.submit(make_submit(engine.new_seq_id(), max_tokens=200), other)
        assert await other.end() == Finished(FinishReason.LENGTH)
        assert await long.end() == Finished(FinishReason.LENGTH)
        assert other.token_ids == solo_output([1, 2, 3], 200, SamplingParams(seed=0))
        (told,) = [call[2] for call in long.calls if call[2] is not None]
        assert [entry.token_id for entry in told[1:]] == prompt[1:]
        assert engine.pid == pid


# --- hangs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("spin_token=63", "in _spin"),
        ("block_token=63", "in _fault"),
        ("hang_token=63", "in _fault"),
    ],
    ids=["an endless loop", "a kernel that holds Python", "a kernel that does not"],
)
async def test_a_hung_engine_says_where_it_is_before_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str, place: str
) -> None:
    async with remote_engine(
        monkeypatch, f"num_blocks=64&{fault}", hang_s=1.0, stop_wait_s=15.0
    ) as engine:
        await ready(engine)
        listener = Listener()
        engine.submit(make_submit(engine.new_seq_id(), (63, 1)), listener)
        assert isinstance(await listener.end(), PoisonRequest)
        await ready(engine)
    said = capfd.readouterr().err
    assert "Fatal Python error: Aborted" in said
    assert place in said


@needs_proc
def test_readiness_and_liveness_tell_the_truth_of_a_stopped_engine(
    tmp_path: Path, measured: Measured
) -> None:
    with server(
        tmp_path, "step_s=0.01", patches={"remote.HANG_S": 4.0, "supervisor.STOP_WAIT_S": 0.3}
    ) as served:
        assert served.get("/readyz")[0] == 200
        pid = served.kill_engine(signal.SIGSTOP)
        unready_s = served.until("/readyz", 503)
        live, _ = served.get("/livez")
        measured(
            "/readyz after SIGSTOP of the engine", promised="≤ 3 s", measured=f"{unready_s:.1f} s"
        )
        assert live == 200
        assert unready_s < 3 * _SLACK
        served.until("/readyz", 200)
        assert not is_running(pid)
        assert served.engine_pid != pid


# --- parents and children ------------------------------------------------------------------------

_PARENT = """
import asyncio, sys
from shoal.bridge.remote import RemoteEngine
from shoal.bridge import remote, supervisor
from shoal.protocol.messages import EngineConfig, ModelSource
from functools import partial
remote.Supervisor = partial(supervisor.Supervisor, command=(sys.executable, sys.argv[1]))
async def main():
    engine = RemoteEngine(EngineConfig(models=(ModelSource("fake", "num_blocks=8&spin_token=1"),)))
    await engine.start()
    await engine.ready.wait()
    print(engine.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_stopped_engine_does_not_outlive_its_parent(measured: Measured) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(FAKE_ENGINE)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'service'}"},
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait(timeout=10)
    killed = time.monotonic()
    while is_running(pid) and time.monotonic() - killed < 20:
        time.sleep(0.02)
    gone_s = time.monotonic() - killed
    measured(
        "a stopped engine after its parent's end", promised="≤ 2 s", measured=f"{gone_s:.2f} s"
    )
    assert not is_running(pid)
    assert gone_s < 2 * _SLACK


# --- crash loops ---------------------------------------------------------------------------------


@needs_proc
def test_a_crash_loop_ends_the_server_with_its_code_also_when_a_signal_comes_late(
    tmp_path: Path,
) -> None:
    patches = {"supervisor.MAX_PAUSE_S": 0.7}
    with server(tmp_path, "die_at_start=1", patches=patches, wait=False) as served:
        while served.log.read_text().count("engine process exited") < 5:
            time.sleep(0.02)
        served.process.send_signal(signal.SIGTERM)
        # On a very slow machine the signal comes before anything handles it.
        assert served.process.wait(timeout=30) in (3, -signal.SIGTERM)


# --- kills under load ----------------------------------------------------------------------------


async def _stream(client: httpx.AsyncClient, number: int, counts: dict[str, int]) -> None:
    """One request; counts how it ended, and fails where a stream is cut without a word."""
    body = {
        "prompt": f"request {number}", "max_tokens": 40, "ignore_eos": True, "seed": number,
        "stream": number % 3 != 0,
    }  # fmt: skip
    response = await client.post("/v1/completions", json=body)
    if response.status_code != 200:
        code = response.json()["error"]["code"]
        counts[code] = counts.get(code, 0) + 1
        assert response.status_code in (500, 503), response.text
        assert code in ("engine_restarted", "model_loading", "poison_request")
        await asyncio.sleep(0.05)
        return
    if not body["stream"]:
        assert response.json()["usage"]["completion_tokens"] == 40
        counts["whole"] = counts.get("whole", 0) + 1
        return
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]", "a bare cut"
    last: dict[str, Any] = json.loads(events[-2])
    if "error" in last:
        assert last["error"]["code"] in ("engine_restarted", "poison_request")
        counts["error event"] = counts.get("error event", 0) + 1
    else:
        assert last["choices"][0]["finish_reason"] == "length"
        counts["whole"] = counts.get("whole", 0) + 1


async def _load(url: str, stop: asyncio.Event, counts: dict[str, int]) -> None:
    limits = httpx.Limits(max_connections=None)
    numbers = iter(range(10**9))

    async def worker(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            await asyncio.wait_for(_stream(client, next(numbers), counts), 30)

    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        await asyncio.gather(*(worker(client) for _ in range(12)))


async def _kill(
    served: Any, num_kills: int, rng: random.Random, counts: dict[str, int]
) -> list[float]:
    """Kills the engine again and again under load; seconds until it served again."""
    stop = asyncio.Event()
    load = asyncio.create_task(_load(served.url, stop, counts))
    recovered = []
    for _ in range(num_kills):
        await asyncio.sleep(rng.uniform(0.0, 0.6))
        if load.done():
            break
        pid = await asyncio.to_thread(served.kill_engine)
        recovered.append(await asyncio.to_thread(served.until_replaced, pid))
    while not (load.done() or counts.get("whole")):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    stop.set()
    await load
    return recovered


@needs_proc
@pytest.mark.parametrize(
    "num_kills", [3, pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(400)])]
)
async def test_kills_under_load_leave_nobody_hanging_and_no_bare_cut(
    tmp_path: Path, measured: Measured, num_kills: int
) -> None:
    patches = {"supervisor.MAX_PAUSE_S": 0.05, "supervisor.EXIT_WINDOW_S": 0.0}
    counts: dict[str, int] = {}
    with server(tmp_path, "step_s=0.01", patches=patches, max_batch_size=8) as served:
        recovered = await _kill(served, num_kills, random.Random(num_kills), counts)
        async with httpx.AsyncClient(base_url=served.url) as client:
            gauges = (await client.get("/load")).json()["models"]["tiny"]
        served.process.terminate()
        assert served.process.wait(timeout=20) == 0
    assert (gauges["running"], gauges["waiting"], gauges["kv_used"]) == (0, 0, 0)
    worst = max(recovered)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    measured(
        f"{num_kills} engine kills under load: serving again",
        promised="≤ load time + 3 s, nobody hangs, no bare cut",
        measured=f"≤ {worst:.1f} s; {told}",
    )
    assert len(recovered) == num_kills
    assert worst < 3 * _SLACK
    assert counts["whole"] > 0
