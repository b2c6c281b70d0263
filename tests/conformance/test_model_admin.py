"""Models of a real server: loaded and unloaded while it serves, and loaded again after a crash."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama

ADMIN = {"authorization": "Bearer r"}
MIB = 1 << 20


def post(server: ServerProcess, route: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + route, json=body, headers=ADMIN, timeout=60)


def complete(server: ServerProcess, model: str) -> Any:
    body = {"model": model, "prompt": "Once", "max_tokens": 8, "temperature": 0}
    return post(server, "/v1/completions", **body)


def engine_bytes(server: ServerProcess) -> int:
    for line in Path(f"/proc/{server.engine_pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def wait_until_ready(server: ServerProcess, *names: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        models = server.get("/v1/models").json()["data"]
        if {model["id"] for model in models if model["ready"]} == set(names):
            return
        time.sleep(0.1)
    raise AssertionError(models)


def test_a_model_comes_and_goes_and_its_memory_with_it(tmp_path: Path) -> None:
    first = write_tiny_llama(tmp_path / "first")
    large = write_tiny_llama(tmp_path / "large", num_layers=160)
    size = (large / "model.safetensors").stat().st_size
    assert size > 20 * MIB
    with serve_process(first, "--admin-key", "r", "--kv-cache-bytes", str(64 * MIB)) as server:
        alone = complete(server, "first").json()["choices"]
        before = engine_bytes(server)
        context = server.get("/v1/models/first").json()["max_model_len"]
        for _ in range(2):
            answer = post(server, "/admin/models/load", name="large", path=str(large), wait=True)
            assert answer.status_code == 200, answer.text
            assert answer.json()["max_model_len"] > 16
            assert complete(server, "large").status_code == 200
            assert complete(server, "first").json()["choices"] == alone
            assert server.get("/v1/models/first").json()["max_model_len"] == context
            assert engine_bytes(server) > before + size // 2
            answer = post(server, "/admin/models/unload", name="large", drain=True)
            assert answer.status_code == 200, answer.text
            assert engine_bytes(server) < before + size // 4
            assert complete(server, "large").json()["error"]["code"] == "model_not_found"
        assert complete(server, "first").json()["choices"] == alone
        assert post(server, "/admin/cache/reset").json()["reset"] is True


def test_a_restarted_engine_knows_what_was_loaded_and_unloaded(tmp_path: Path) -> None:
    folders = [write_tiny_llama(tmp_path / name) for name in ("a", "b")]
    with serve_process(folders[0], "--admin-key", "r") as server:
        wait_until_ready(server, "a")
        answer = post(server, "/admin/models/load", name="b", path=str(folders[1]))
        assert answer.status_code == 202, answer.text
        wait_until_ready(server, "a", "b")
        text = complete(server, "b").json()["choices"]
        assert post(server, "/admin/models/unload", name="a").status_code == 200
        os.kill(server.engine_pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while complete(server, "b").status_code != 200 and time.monotonic() < end:
            time.sleep(0.1)
        assert complete(server, "b").json()["choices"] == text
        wait_until_ready(server, "b")
        assert complete(server, "a").json()["error"]["code"] == "model_not_found"
        missing = post(server, "/admin/models/load", name="c", path=str(tmp_path / "absent"))
        assert missing.json()["error"]["param"] == "path"
        (tmp_path / "b" / "model.safetensors").write_bytes(b"not a model")
        broken = post(server, "/admin/models/load", name="d", path=str(folders[1]), wait=True)
        assert broken.status_code == 400, broken.text
        assert complete(server, "b").json()["choices"] == text
