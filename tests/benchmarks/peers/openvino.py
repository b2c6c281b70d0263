"""OpenVINO GenAI: its continuous-batching pipeline in process, without HTTP and without streaming.

Makes an environment of its own under `.cache/peers`, converts with Optimum there and starts
`openvino_worker` in it. Its figures leave out what a server costs, so they flatter this peer.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shoal.commands.bench.prompts import make_prompt

from .measure import LevelResult, StartResult, Window
from .process import ServerFailed, Unavailable
from .shapes import CACHE, Shape, model_folder

PACKAGES = ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "torch==2.13.0")
ENVIRONMENT = CACHE / "env-openvino"
PYTHON = ENVIRONMENT / "bin" / "python"
SETTINGS = "2 threads, one stream, 512 tokens a step"
# Tried once at 32 prompts. The KV cache has 8 bits in all of them, OpenVINO's default on CPUs.
VARIANTS = {"f32 hint": "f32", "bf16 hint": "bf16"}
LONGEST_RUN_S = 300.0
NUM_PROMPTS = 1024
QUIET = {"HF_HUB_OFFLINE": "1", "OPTIMUM_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "0"}

Weights = Literal["fp16", "int8"]
WEIGHTS: tuple[Weights, ...] = ("fp16", "int8")


@dataclass(frozen=True, slots=True)
class Job:
    """What `openvino_worker` is told. `started_at`: seconds on the machine's monotonic clock."""

    model: str
    hint: str
    batches: list[int]
    tokens: int
    prompts: list[str]
    duration_s: float
    started_at: float
    threads: int = 2
    streams: int = 1
    cache_gb: int = 1
    batched_tokens: int = 512


def install() -> None:
    """The environment, made on the first call. Raises Unavailable."""
    ready = ENVIRONMENT / "ready"
    if ready.is_file():
        return
    print("installing OpenVINO GenAI (2 GB, once) …", flush=True)
    pip = [str(PYTHON), "-m", "pip"]
    extra = os.environ.get("PIP_ARGS", "").split()
    _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    _run([*pip, "install", "--quiet", *extra, *PACKAGES])
    # Optimum brings a torchvision that need not fit this PyTorch; text needs none.
    _run([*pip, "uninstall", "--quiet", "--yes", "torchvision"])
    ready.touch()


def model(shape: Shape, weights: Weights) -> Path:
    """The shape in OpenVINO's own format, converted on the first call. Raises Unavailable."""
    folder = CACHE / "openvino" / f"{shape.name}-{weights}"
    if not (folder / "openvino_model.bin").is_file():
        export = [str(PYTHON.with_name("optimum-cli")), "export", "openvino"]
        source = ["--model", str(model_folder(shape)), "--task", "text-generation-with-past"]
        _run([*export, *source, "--weight-format", weights, str(folder)])
    return folder


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **QUIET})
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-1000:]}")


def run(
    shape: Shape, weights: Weights, variant: str, batches: Sequence[int], window: Window
) -> tuple[list[StartResult], list[LevelResult]]:
    """Whole batches as large as the numbers of clients. Raises ServerFailed."""
    load, name = shape.load, f"OpenVINO GenAI {weights}"
    labels = (f"{window.round}-{number}" for number in range(NUM_PROMPTS))
    job = Job(
        model=str(model(shape, weights)),
        hint=VARIANTS[variant],
        batches=list(batches),
        tokens=load.tokens,
        prompts=[make_prompt(window.round, label, load.words) for label in labels],
        duration_s=window.duration_s if load.waves is None else 0.0,
        started_at=time.monotonic(),
    )
    start, *lines = _lines(job)
    memory = max((line["memory_mib"] for line in lines), default=start["memory_mib"])
    results = [
        LevelResult(
            server=name,
            family="openvino",
            weights="int8" if weights == "int8" else "bf16",
            shape=shape.name,
            round=window.round,
            clients=int(line["batch"]),
            streamed=False,
            tokens_per_s=line["tokens_per_s"],
            num_completed=int(line["num_completed"]),
            errors={},
        )
        for line in lines
    ]
    slots, first = max(batches), start["first_token_s"]
    times = (first, start["memory_mib"], memory)
    return [StartResult(name, shape.name, window.round, slots, *times)], results


def _lines(job: Job) -> list[dict[str, float]]:
    # -P: this folder, whose `openvino` is the present file, stays out of the worker's path.
    worker = Path(__file__).with_name("openvino_worker.py")
    try:
        done = subprocess.run(
            [str(PYTHON), "-P", str(worker)],
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN_S,
            env={**os.environ, **QUIET},
        )
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"OpenVINO took longer than {LONGEST_RUN_S:.0f} s") from error
    if done.returncode:
        raise ServerFailed(f"OpenVINO failed:\n{done.stderr[-1500:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def best_variant(shape: Shape, clients: int, duration_s: float) -> tuple[str, dict[str, float]]:
    """The faster hint at `clients` prompts, and both rates."""
    rates = {}
    for variant in VARIANTS:
        _, (result,) = run(shape, "fp16", variant, [clients], Window(duration_s, -1))
        rates[variant] = result.tokens_per_s
    return max(rates, key=lambda variant: rates[variant]), rates
