"""A real `shoal serve` in a process of its own, on an engine process with a fake runner."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fakes.text_folder import VOCAB_SIZE, write_text_folder

ROOT = Path(__file__).resolve().parents[2]
FAKE_ENGINE = ROOT / "tests" / "fakes" / "engine_process.py"
_PROGRAM = """
import json, sys
from functools import partial
given = json.loads(sys.argv[1])
from shoal.bridge import remote, supervisor
from shoal.config import Settings
from shoal.server import serve
for name, value in given["patches"].items():
    module, _, attribute = name.rpartition(".")
    setattr({"remote": remote, "supervisor": supervisor}[module], attribute, value)
remote.Supervisor = partial(supervisor.Supervisor, command=tuple(given["command"]))
sys.exit(serve.run(Settings(**given["settings"])))
"""


class ServerProcess:
    """The server's process, how to ask it something, and its engine's process."""

    def __init__(
        self, folder: Path, options: str, patches: dict[str, Any], **settings: Any
    ) -> None:
        """`options`: of the fake engine; `patches`: constants, by `remote.NAME`."""
        names = settings.pop("names", ("tiny",))
        for name in names:
            write_text_folder(folder / name)
        given = {
            "patches": patches,
            "command": [
                sys.executable, str(FAKE_ENGINE), f"vocab_size={VOCAB_SIZE}&{options}",
            ],
            "settings": {
                "models": [f"{name}={folder / name}" for name in names],
                "port": 0,
                "log_format": "json",
                **settings,
            },
        }  # fmt: skip
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(given)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'service'}{os.pathsep}{ROOT}"},
                cwd=folder,
            )
        self.url = ""

    def wait_until_served(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Shoal serves on " in line:
                self.url = line.split("Shoal serves on ")[1].split(" ")[0]
                return
        raise AssertionError(self.log.read_text()[-4000:])

    def get(self, path: str, limit_s: float = 10.0) -> tuple[int, float]:
        """Status and seconds."""
        started = time.monotonic()
        status = 0
        try:
            with urllib.request.urlopen(self.url + path, timeout=limit_s) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
        return status, time.monotonic() - started

    def until(self, path: str, status: int, limit_s: float = 20.0) -> float:
        """Seconds until the route answers so."""
        started = time.monotonic()
        while self.get(path)[0] != status:
            assert time.monotonic() - started < limit_s, f"{path} does not become {status}"
            time.sleep(0.02)
        return time.monotonic() - started

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def engine_pid(self) -> int:
        """Of the engine that runs now; 0 while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in map(int, children.read_text().split()):
            with contextlib.suppress(OSError):
                if str(FAKE_ENGINE).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def kill_engine(self, number: int = signal.SIGKILL) -> int:
        """Its pid."""
        while (pid := self.engine_pid) == 0:
            time.sleep(0.01)
        os.kill(pid, number)
        return pid

    def until_replaced(self, pid: int, limit_s: float = 30.0) -> float:
        """Seconds until another engine serves than this one."""
        started = time.monotonic()
        while self.engine_pid in (0, pid) or self.get("/readyz")[0] != 200:
            assert time.monotonic() - started < limit_s, "no other engine serves"
            time.sleep(0.02)
        return time.monotonic() - started

    @property
    def memory_bytes(self) -> int:
        """Resident, of the server's process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def server(
    folder: Path,
    options: str = "",
    *,
    patches: dict[str, Any] | None = None,
    wait: bool = True,
    **settings: Any,
) -> Iterator[ServerProcess]:
    """Serves until the end of the block; then it is killed, with its engine."""
    running = ServerProcess(folder, options, patches or {}, **settings)
    try:
        if wait:
            running.wait_until_served()
        yield running
    finally:
        running.process.kill()
        running.process.communicate(timeout=10)


def is_running(pid: int) -> bool:
    """A zombie is not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
