"""The server as a process: its engine dies, it is told to end, its model is bad."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama

LONG = {"prompt": "x", "stream": True, "ignore_eos": True, "temperature": 0}


def first_event(lines: Any) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(next(lines).removeprefix("data: "))
    return event


def stream(server: ServerProcess, **fields: Any) -> Any:
    return httpx.stream("POST", server.url + "/v1/completions", json={**LONG, **fields}, timeout=20)


def until_ready(server: ServerProcess) -> None:
    end = time.monotonic() + 15
    while server.get("/readyz").status_code != 200:
        assert time.monotonic() < end, "the engine does not come back"
        time.sleep(0.05)


def test_an_engine_killed_mid_stream_then_a_drain_mid_stream(tmp_path: Path) -> None:
    """One server for both: what is open ends openly, a new engine serves the same text, and
    SIGTERM lets the running stream finish before exit code 0."""
    # many layers, so that an answer takes longer than it takes to kill
    folder = write_tiny_llama(tmp_path / "tiny", num_layers=60)
    with serve_process(folder, "--dtype", "float32") as server:
        with stream(server, max_tokens=500) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            first = first_event(lines)
            os.kill(server.engine_pid, signal.SIGKILL)
            began = time.monotonic()
            rest = [line for line in lines if line]
            assert time.monotonic() - began < 2
            assert rest[-1] == "data: [DONE]"
            assert (
                json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "engine_restarted"
            )
        refusal = httpx.post(server.url + "/v1/completions", json={"prompt": "x"})
        assert refusal.status_code == 503
        assert refusal.headers["retry-after"]
        assert server.get("/livez").status_code == 200
        until_ready(server)

        with stream(server, max_tokens=300) as response:
            lines = response.iter_lines()
            assert first_event(lines)["choices"][0]["text"] == first["choices"][0]["text"]
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            last = json.loads(rest[-2].removeprefix("data: "))
            assert last["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(10) == 0


def test_a_model_that_cannot_be_loaded_ends_the_server_with_code_3(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    unserved = pytest.raises(AssertionError, match="did not come up, exit code 3")
    with unserved as told, serve_process(folder):
        pass
    assert "safetensors" in str(told.value)
    assert "Traceback" not in str(told.value)


def test_a_tokenizer_that_cannot_be_read_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    """Engine and HTTP side read it at the same time; either may say so first."""
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{}")
    unserved = pytest.raises(AssertionError, match=r"did not come up, exit code [23]")
    with unserved as told, serve_process(folder):
        pass
    assert "tokenizer.json" in str(told.value)
    assert "Traceback" not in str(told.value)


def test_one_model_under_several_names_beside_another(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "lr=0.1")
    write_tiny_llama(tmp_path / "other")
    with serve_process(folder, "m,org/m=lr=0.1", "other") as server:
        until_ready(server)
        listed = server.get("/v1/models").json()["data"]
        names = {model["id"]: model["root"] for model in listed}
        assert names == {"lr=0.1": "lr=0.1", "m": "m", "org/m": "m", "other": "other"}
        texts = set()
        for model in ("lr=0.1", "m", "org/m"):
            body = {"model": model, "prompt": "a", "max_tokens": 8, "temperature": 0}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=20).json()
            texts.add(answer["choices"][0]["text"])
        assert len(texts) == 1


def test_bad_folders_of_models_dir_are_told_with_their_reasons_and_stop_no_other(
    tmp_path: Path,
) -> None:
    root = tmp_path / "models"
    write_tiny_llama(root / "good")
    for name in ("cut", "garbled", "adapter"):
        write_tiny_llama(root / name)
    (root / "cut" / "model.safetensors").write_bytes(b"no tensors")
    (root / "garbled" / "tokenizer.json").write_text("{}")
    (root / "adapter" / "adapter_config.json").write_text("{}")
    (root / "adapter" / "config.json").unlink()
    reasons = {
        "cut": "model.safetensors",
        "garbled": "tokenizer.json",
        "adapter": "adapter is an adapter",
    }
    with serve_process(root, named_by="--models-dir") as server:
        until_ready(server)
        states = server.get("/readyz").json()["models"]
        assert states["good"]["state"] == "ready"
        listed = server.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["good"]
        told = {model["id"]: model["reason"] for model in listed["failed"]}
        assert told.keys() == reasons.keys()
        log = (tmp_path / "server.log").read_text()
        for name, words in reasons.items():
            assert states[name]["state"] == "failed"
            assert words in states[name]["reason"]
            assert words in told[name]
            assert words in log
            answer = server.get(f"/v1/models/{name}")
            assert answer.status_code == 404
            assert words in answer.json()["error"]["message"]
        body = {"prompt": "a", "max_tokens": 1}
        for model, status in (("good", 200), ("cut", 404), (None, 200)):
            response = httpx.post(f"{server.url}/v1/completions", json={**body, "model": model})
            assert response.status_code == status, response.text


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    with serve_process(folder) as server:
        port = server.url.rpartition(":")[2]
        second = subprocess.run(
            [*server.process.args[:-1], port],  # type: ignore[index]
            capture_output=True, text=True, timeout=20, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "service")},
        )  # fmt: skip
        assert second.returncode != 0
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "Traceback" not in second.stderr
