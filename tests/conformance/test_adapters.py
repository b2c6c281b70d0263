"""`shoal serve --adapter` as a process: adapters come and go while many clients are served, every
answer stays what it is alone, and a new engine has them again."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.kernels import native
from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.fakes.tiny_adapters import write_adapter, write_merged

ADMIN = {"Authorization": "Bearer secret"}
PROMPTS = ("Once upon a time", "Once upon a time there was", "x", "A longer prompt " * 6)


def complete(server: ServerProcess, model: str, prompt: str) -> httpx.Response:
    body = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 0}
    return httpx.post(server.url + "/v1/completions", json=body, timeout=60)


def answer(response: httpx.Response) -> tuple[str, list[float]]:
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def admin(server: ServerProcess, what: str, **body: Any) -> httpx.Response:
    url = f"{server.url}/admin/lora/{what}"
    return httpx.post(url, json=body, headers=ADMIN, timeout=60)


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_adapters_come_and_go_under_load(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "tiny")
    folders = {
        name: write_adapter(tmp_path / name, base, rank=rank, seed=rank)
        for name, rank in (("one", 4), ("two", 7), ("three", 16))
    }
    merged = write_merged(tmp_path / "merged", base, folders["one"])
    flags = ["--adapter", str(folders["one"]), "--adapter", f"zwei={folders['two']}@tiny",
             "--model", str(merged), "--admin-key", "secret", "--dtype", "float32"]  # fmt: skip
    with serve_process(base, *flags) as server:
        listed = server.get("/v1/models").json()["data"]
        assert [(model["id"], model["parent"]) for model in listed] == [
            ("tiny", None), ("merged", None), ("one", "tiny"), ("zwei", "tiny")]  # fmt: skip
        load = admin(server, "load", name="three", path=str(folders["three"]))
        assert load.status_code == 200, load.text
        models = ("tiny", "one", "zwei", "three")
        alone = {
            (model, prompt): answer(complete(server, model, prompt))
            for model in models
            for prompt in PROMPTS
        }
        for prompt in PROMPTS:
            text, logprobs = answer(complete(server, "merged", prompt))
            assert text == alone["one", prompt][0] != alone["tiny", prompt][0]
            assert logprobs == pytest.approx(alone["one", prompt][1], abs=1e-4)

        def client(number: int) -> int:
            num_gone = 0
            for turn in range(12):
                model, prompt = models[(number + turn) % 4], PROMPTS[(number + turn // 2) % 4]
                response = complete(server, model, prompt)
                if response.status_code in (404, 503) and model == "three":
                    num_gone += 1
                    continue
                assert answer(response) == alone[model, prompt]
            return num_gone

        with ThreadPoolExecutor(16) as pool:
            running = [pool.submit(client, number) for number in range(16)]
            for _ in range(6):
                assert admin(server, "unload", name="three").status_code == 200
                time.sleep(0.05)
                again = admin(server, "load", name="three", path=str(folders["three"]))
                assert again.status_code == 200, again.text
            assert all(future.result() >= 0 for future in running)
        server.wait_idle()
        assert answer(complete(server, "three", "x")) == alone["three", "x"]

        os.kill(server.engine_pid, signal.SIGKILL)
        time.sleep(0.2)
        end = time.monotonic() + 30
        while server.get("/readyz").status_code != 200:
            assert time.monotonic() < end, "the engine does not come back"
            time.sleep(0.1)
        for model in models:
            assert answer(complete(server, model, PROMPTS[1])) == alone[model, PROMPTS[1]]


def test_an_adapter_that_does_not_fit_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "tiny")
    other = write_tiny_llama(tmp_path / "deeper", num_layers=3)
    wrong = write_adapter(tmp_path / "wrong", other)
    with (
        pytest.raises(AssertionError, match="exit code 3") as failed,
        serve_process(base, "--adapter", str(wrong)),
    ):
        pass
    assert "shoal: adapter wrong: wrong/adapter_model.safetensors: modules that" in str(
        failed.value
    )
    with (
        pytest.raises(AssertionError, match="exit code 2") as failed,
        serve_process(base, "--adapter", f"{wrong}@nobody"),
    ):
        pass
    assert "adapter wrong: its base nobody is none of tiny" in str(failed.value)
