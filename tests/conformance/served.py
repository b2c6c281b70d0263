"""`shoal serve` as a real process on a tiny random model, and how to look into it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from safetensors.numpy import save_file

from tests.fakes import canary
from tests.fakes.text_folder import END_ID, VOCAB_SIZE, write_text_folder

ROOT = Path(__file__).parents[2]
CONTEXT = 4096


def write_tiny_llama(folder: Path, num_layers: int = 2) -> Path:
    """A Llama of a few thousand random numbers, with the byte tokenizer and a chat template. More
    layers make it slower, for tests that need an answer to take a while."""
    hidden, inner, heads, kv_heads = 64, 128, 4, 2
    write_text_folder(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": num_layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32",
        "bos_token_id": END_ID, "eos_token_id": END_ID,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(7)

    def weight(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 0.15).astype(np.float32)

    kv = hidden * kv_heads // heads
    tensors = {
        "model.embed_tokens.weight": weight(VOCAB_SIZE, hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": weight(VOCAB_SIZE, hidden),
    }
    for layer in range(num_layers):
        shapes = {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ones(hidden, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass
class ServerProcess:
    """A running `shoal serve`."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def metric(self, name: str) -> float:
        """Value of one line of /metrics; 0 before it exists."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def running(self) -> int:
        models = self.get("/load").json()["models"]
        return sum(model["running"] + model["waiting"] for model in models.values())

    def wait_idle(self, timeout_s: float = 5.0) -> None:
        end = time.monotonic() + timeout_s
        while self.running():
            assert time.monotonic() < end, "sequences still run"
            time.sleep(0.02)

    @property
    def engine_pid(self) -> int:
        """The one child of the HTTP process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = children.read_text().split()
        return int(pid)


@contextmanager
def serve_process(
    folder: Path,
    *flags: str,
    named_by: str = "--model",
    log_folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """Starts the server on a free port and stops it at the end. `named_by`: the flag that gives
    it the folder. `log_folder`: for its server.log; None = beside the model. Keys, which are no
    flags of the server, are given as --api-key and --admin-key, and it gets them as it can.
    `variables`: more of its environment; `under`: a command that runs it."""
    flags, keys = _without_keys(flags)
    server_log = (log_folder or folder.parent) / "server.log"
    environment = {name: value for name, value in os.environ.items() if "SHOAL" not in name}
    log = server_log.open("w")
    process = subprocess.Popen(
        [
            *under,
            sys.executable,
            "-m",
            "shoal",
            "serve",
            named_by,
            str(folder),
            "--port",
            "0",
            *flags,
        ],
        cwd=folder.parent,
        env={
            **environment,
            **keys,
            **(variables or {}),
            "PYTHONPATH": str(ROOT / "service"),
            "OMP_NUM_THREADS": "2",
        },
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if found := re.search(r"serves on (http://\S+)", line):
                yield ServerProcess(found[1], process)
                if process.poll() is None:
                    assert canary.show(found[1]) == [], "answers repeat a key or a prompt"
                break
        else:
            raise AssertionError(
                f"the server did not come up, exit code {process.wait(10)}: {printed}"
                + server_log.read_text()
            )
    finally:
        children = descendants(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # without the delay of SIGTERM
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            log.close()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == [], "processes outlive the server"
        printed += process.stdout.read()  # which they could hold open
        process.stdout.close()
        written = server_log.read_text()
        assert "never retrieved" not in written, "a task's error is lost"
        assert canary.seen_in(written + printed) == [], "a key or a prompt is in the log"


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _without_keys(flags: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The flags without keys, and the variables that hold these."""
    variables = {"--api-key": "SHOAL_API_KEYS", "--admin-key": "SHOAL_ADMIN_KEYS"}
    left: list[str] = []
    keys: dict[str, list[str]] = {}
    each = iter(flags)
    for flag in each:
        if flag in variables:
            keys.setdefault(variables[flag], []).append(next(each))
        else:
            left.append(flag)
    return tuple(left), {name: ",".join(values) for name, values in keys.items()}
