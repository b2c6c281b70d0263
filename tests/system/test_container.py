"""The Dockerfile, really built and started: an image that serves, and gives away nothing."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.system.container import Image, Unavailable, built_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KEY = {"Authorization": "Bearer a-key"}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    # /tmp can be a small memory disk; the image takes some GB while it is built.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="shoal-image-") as scratch:
        began = time.monotonic()
        try:
            with built_image(Path(scratch)) as image:
                print(f"\nimage built in {time.monotonic() - began:.0f} s, base included")
                yield image
        except Unavailable as reason:
            pytest.skip(str(reason))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise TimeoutError(url)


@contextmanager
def serving(image: Image) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The image's own command, confined, with a key, on a free port."""
    port = free_port()
    config = image.config()
    command = [*config["Entrypoint"], *config["Cmd"]]
    line = image.confined(command, SHOAL_API_KEYS="a-key", SHOAL_PORT=str(port))
    server = subprocess.Popen(line, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}", server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def processes_below(pid: int) -> list[int]:
    """The process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in processes_below(int(child)))]


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, value in (line.split(":", 1) for line in lines)}


def test_it_answers_without_root_privileges_or_a_place_to_write(image: Image) -> None:
    began = time.monotonic()
    with serving(image) as (url, server):
        print(f"\nready {time.monotonic() - began:.1f} s after its start")
        request = {"model": "minnow", "prompt": "Once upon a time", "max_tokens": 16}
        answer = httpx.post(f"{url}/v1/completions", json=request, headers=KEY, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 16
        assert len(answer.json()["choices"][0]["text"].split()) > 5
        assert httpx.post(f"{url}/v1/completions", json=request).status_code == 401
        models = httpx.get(f"{url}/version", headers=KEY).json()["models"]
        assert len(models) == 2
        assert all(model["kernels"] != "torch" for model in models.values()), models

        shoal = processes_below(server.pid)[1:]  # unshare itself stays outside
        assert len(shoal) >= 2, "the HTTP side and the engine"
        for pid in shoal:
            assert status(pid)["Uid"] == ["10001"] * 4
            assert status(pid)["Groups"] == []
            assert int(status(pid)["CapEff"][0], 16) == int(status(pid)["CapBnd"][0], 16) == 0
            assert status(pid)["NoNewPrivs"] == ["1"]


def test_the_health_check_tells_a_serving_container_from_a_silent_one(image: Image) -> None:
    _, *command = image.config()["Healthcheck"]["Test"]
    silent = image.confined(command, SHOAL_PORT=str(free_port()))
    assert subprocess.run(silent, capture_output=True).returncode != 0
    with serving(image) as (url, _):
        line = image.confined(command, SHOAL_PORT=url.rpartition(":")[2])
        assert subprocess.run(line).returncode == 0


def test_it_stops_cleanly_on_sigterm(image: Image) -> None:
    with serving(image) as (_, server):
        _, shoal, *_ = processes_below(server.pid)
        os.kill(shoal, signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def test_it_refuses_to_serve_strangers(image: Image) -> None:
    config = image.config()
    line = image.confined([*config["Entrypoint"], *config["Cmd"]])
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "api_keys" in done.stderr


def test_buildah_runs_the_image_as_it_is(image: Image) -> None:
    shown = image.run_buildah(
        "run", "--isolation", "chroot", "shoal-unpacked", "--", "shoal", "--version"
    )
    assert re.search(r"\d+\.\d+\.\d+", shown)
    user = image.run_buildah("run", "--isolation", "chroot", "shoal-unpacked", "--", "id", "-u")
    assert user == "10001"


def test_it_holds_no_compiler_no_pip_and_no_pytorch(image: Image) -> None:
    folder = image.folder()
    programs = {
        path.name
        for place in ("usr/bin", "usr/local/bin", "opt/shoal/bin")
        for path in (folder / place).glob("*")
    }
    assert "shoal" in programs
    assert not {"cc", "gcc", "g++", "c++", "clang", "ld", "make", "cmake", "pip"} & programs
    packages = {path.name for path in folder.glob("opt/shoal/lib/python3*/site-packages/*")}
    assert "fastapi" in packages
    absent = {"torch", "triton", "sympy", "nvidia", "pip", "setuptools", "nanobind", "cmake", "uv"}
    assert not packages & absent


def test_it_is_no_larger_than_it_has_to_be(image: Image) -> None:
    folder = image.folder()
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    largest = Counter[str]()
    for path in files:
        part = path.relative_to(folder).parts
        largest["/".join(part[: 6 if part[0] == "opt" else 2])] += path.stat().st_size
    print(f"\nimage of {megabytes:.0f} MB")
    print("".join(f"{size / 1e6:6.1f} MB  {part}\n" for part, size in largest.most_common(20)))
    assert megabytes < 300


def test_a_model_of_the_catalogue_can_be_inside(image: Image) -> None:
    with serving(image.with_models("smollm2")) as (url, _):
        listed = httpx.get(f"{url}/v1/models", headers=KEY).json()["data"]
        assert {model["id"] for model in listed} == {"minnow", "pilotfish", "smollm2"}
        messages = [{"role": "user", "content": "Say hello."}]
        request = {"model": "smollm2", "messages": messages, "max_tokens": 24, "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=request, headers=KEY, timeout=60)
        assert answer.status_code == 200, answer.text
        assert "Hello" in answer.json()["choices"][0]["message"]["content"]
