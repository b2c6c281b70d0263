"""The surroundings of a server: its environment, its keys, its container's limits."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conformance.served import ROOT, ServerProcess, serve_process, write_tiny_llama
from tests.faults.measured import Measured

MIB = 1 << 20
KEY, ADMIN, PROMPT = "key-CANARY-1", "key-CANARY-2", "prompt-CANARY-3"
LINKS = {
    "SHOAL_PORT": "tcp://10.96.7.7:8000",
    "SHOAL_SERVICE_HOST": "10.96.7.7",
    "SHOAL_PORT_8000_TCP": "tcp://10.96.7.7:8000",
}


def descendants(pid: int) -> list[int]:
    """Started by whatever thread."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def test_keys_and_prompts_are_nowhere_to_be_seen(tmp_path: Path, measured: Measured) -> None:
    """Not in arguments, the environment of children, logs, errors, metrics or OpenAPI; and what is
    in the environment and no setting is told."""
    folder = write_tiny_llama(tmp_path / "tiny")
    keys = {"SHOAL_API_KEYS": f"ann:{KEY}", "shoal_admin_keys": f"root:{ADMIN}"}
    variables = {**keys, **LINKS, "SHOAL_MAX_BACH_SIZE": "3", "SHOAL_API_KEY": KEY}
    shown: list[str] = []
    with serve_process(folder, "--log-level", "debug", variables=variables) as server:
        ann = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, timeout=20, headers=ann) as client:
            structured = {
                "prompt": PROMPT, "max_tokens": 2,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
                    "type": "object", "properties": {"a": {"type": "integer"}}}}},
            }  # fmt: skip
            assert client.post("/v1/completions", json=structured).status_code == 200
            for body in ({"prompt": PROMPT, "n": PROMPT}, {"prompt": 3, PROMPT: 1}):
                shown.append(client.post("/v1/completions", json=body).text)
            for path in ("/metrics", "/openapi.json", f"/{PROMPT}", "/v1/usage", "/v1/models"):
                shown.append(client.get(path).text)
            root = {"Authorization": f"Bearer {ADMIN}"}
            shown.append(client.get("/admin/models", headers=root).text)
            for key in (KEY + "x", f"{PROMPT}\u00e9".encode()):
                answer = client.get("/v1/models", headers={"x-api-key": key, "Authorization": ""})
                assert answer.status_code == 401
                shown.append(answer.text)
        children = descendants(server.process.pid)
        assert len(children) >= 2, "the engine and the process that compiles grammars"
        for pid in children:
            shown += [Path(f"/proc/{pid}/{name}").read_text() for name in ("environ", "cmdline")]
        shown.append(Path(f"/proc/{server.process.pid}/cmdline").read_text())
    log = (tmp_path / "server.log").read_text()
    found = sum(text.count("CANARY") for text in (*shown, log))
    measured(
        "canary keys and prompts in errors, metrics, OpenAPI, logs, arguments, children",
        promised="found 0 times",
        measured=f"found {found} times",
    )
    assert found == 0, [text[:2000] for text in (*shown, log) if "CANARY" in text]
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert "SHOAL_MAX_BACH_SIZE is no setting" in "".join(events)
    assert "enableServiceLinks: false" in "".join(events)
    assert "SHOAL_SERVICE_HOST" not in log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('api_keys = ["team:secret\\n"]', "api_keys entry 1: the key has blanks or line breaks"),
        ('admin_keys = ["caf\u00e9-secret"]', "admin_keys entry 1: a key is printable ASCII"),
        ('keys_file = "none.toml"', "the keys file cannot be read"),
        ('host = "0.0.0.0"', "allow_unauthenticated"),
    ],
)
def test_what_cannot_be_served_is_one_line_before_anything_starts(
    tmp_path: Path, settings: str, words: str
) -> None:
    (tmp_path / "shoal.toml").write_text(f'models = ["m"]\nport = 0\n{settings}\n')
    done = subprocess.run(
        [sys.executable, "-m", "shoal", "serve"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "service")},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("shoal: ")
    assert words in line
    assert "secret" not in line


# --- limits of control groups ---------------------------------------------------------------------


class Group:
    """A control group of this machine, below the one of this process."""

    def __init__(self, controller: str) -> None:
        name = f"shoal-test-{uuid.uuid4().hex[:8]}"
        self.folders: list[Path] = []
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                root = Path(f"/sys/fs/cgroup/{controllers}{path}")
                self.folders = [root / name, root / name / "inner"]
        if not self.folders:
            pytest.skip("only with cgroup v1: v2 lets no process be beside groups with limits")
        try:
            for folder in self.folders:
                folder.mkdir()
        except OSError as error:
            self.remove()
            pytest.skip(f"this machine allows no control group: {error.strerror}")

    def limit(self, name: str, value: int) -> None:
        """Of the outer group; processes are in the inner one."""
        (self.folders[0] / name).write_text(str(value))

    @property
    def entering(self) -> list[str]:
        """A command that runs another inside."""
        procs = self.folders[1] / "cgroup.procs"
        return ["bash", "-c", f'echo $$ > {procs} && exec "$@"', "enter"]

    def remove(self) -> None:
        for folder in reversed(self.folders):
            end = time.monotonic() + 5
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    assert time.monotonic() < end, f"{folder} cannot be removed"
                    time.sleep(0.05)


@pytest.fixture
def memory_group() -> Iterator[Group]:
    group = Group("memory")
    yield group
    group.remove()


@pytest.fixture
def cpu_group() -> Iterator[Group]:
    group = Group("cpu")
    yield group
    group.remove()


def ask(group: Group, code: str) -> str:
    return subprocess.run(
        [*group.entering, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "service")},
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout.strip()  # fmt: skip


def test_a_limit_of_the_parent_group_is_found(memory_group: Group, cpu_group: Group) -> None:
    memory_group.limit("memory.limit_in_bytes", 300 * MIB)
    code = "from shoal import cgroup; print(cgroup.tightest_memory().limit)"
    assert int(ask(memory_group, code)) == 300 * MIB
    cpu_group.limit("cpu.cfs_quota_us", 70_000)
    assert float(ask(cpu_group, "from shoal import cgroup; print(cgroup.cpu_quota())")) == 0.7


def complete(server: ServerProcess, num: int) -> set[int]:
    body = {"prompt": "x" * 300, "max_tokens": 200, "ignore_eos": True}
    return {
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code
        for _ in range(num)
    }


@pytest.mark.faults
def test_a_limit_of_200_mib_serves_what_fits_and_refuses_the_rest(
    memory_group: Group, tmp_path: Path, measured: Measured
) -> None:
    memory_group.limit("memory.limit_in_bytes", 200 * MIB)
    models = tmp_path / "models"
    write_tiny_llama(models / "small")
    write_tiny_llama(models / "large", num_layers=512)
    with serve_process(models, named_by="--models-dir", under=memory_group.entering) as server:
        statuses = complete(server, 20)
        states = server.get("/readyz").json()["models"]
        outer, inner = memory_group.folders
        reason = states["large"]["reason"]
        most = int((outer / "memory.max_usage_in_bytes").read_text()) // MIB
        events = (inner / "memory.oom_control").read_text()
    measured(
        "a container limit of 200 MiB, a model that fits and one that does not",
        promised="the first is served, the second refused with the numbers, nothing is killed",
        measured=f"at most {most} MiB used, {events.split()[-1]} killed; {reason}",
    )
    assert statuses == {200}
    assert "oom_kill 0" in events
    assert states["small"]["state"] == "ready"
    assert "a limit of 200 MiB" in reason


@pytest.mark.faults
def test_a_limit_that_is_too_small_ends_the_start_with_the_numbers(
    memory_group: Group, tmp_path: Path, measured: Measured
) -> None:
    memory_group.limit("memory.limit_in_bytes", 110 * MIB)
    folder = write_tiny_llama(tmp_path / "tiny")
    unserved = pytest.raises(AssertionError, match="did not come up, exit code 3")
    with unserved as told, serve_process(folder, under=memory_group.entering):
        pass
    measured(
        "a container limit of 110 MiB",
        promised="exit code 3 and one line with the numbers",
        measured="exit code 3",
    )
    assert "a limit of 110 MiB" in str(told.value)
    assert "raise the limit" in str(told.value)
