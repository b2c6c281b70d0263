"""Runs the blocks of a page in their order, as a reader would, in a folder that looks like a clone.

`http://127.0.0.1:8000` stands for the page's server: one that a block starts (`shoal serve ...`,
`make serve`), else minnow, pilotfish and, where it was pulled, smollm2. `path/to/...` are small
models that the tests make.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT, SHELLS, Block, matches
from tests.fakes.tiny_adapters import write_adapter
from tests.fakes.tiny_models import write_tiny_model

SHOWN = "http://127.0.0.1:8000"
LIMIT_S = 150
_PULLED = {
    "smollm2": (r"smollm2|file\.gguf", "smollm2.gguf"),
    "minilm": (r"minilm", "minilm"),
}
"""What `shoal pull` fetches: how blocks call it, and where it lies."""
INSTALL_S = 1200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_until_ready(url: str, server: subprocess.Popen[bytes], limit_s: float = LIMIT_S) -> None:
    """Returns when every model is ready. Raises TimeoutError when that takes too long or the server
    ends."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server ended" if server.poll() is not None else "it is not ready")


class BlockFailed(AssertionError):
    """A block that ended with an error, or printed something else than the page shows."""


def lay_out(folder: Path) -> Path:
    """Makes a folder like a clone: files by link, folders that blocks write into real."""
    clone = folder / "clone"
    (clone / "models").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in {"models", ".git", "build", "dist"}:
            (clone / path.name).symlink_to(path)
    for path in (ROOT / "models").iterdir():
        (clone / "models" / path.name).symlink_to(path)
    made = clone / "path" / "to"
    for name in ("model", "third", "base"):
        write_tiny_model(made / name, "llama", lock=False)
    for seed, name in enumerate(("adapter", "other")):
        write_adapter(made / name, made / "base", seed=seed)
    if (pulled := ROOT / "models" / "smollm2.gguf").exists():
        (made / "file.gguf").symlink_to(pulled)
    return clone


class Walk:
    """One page's session: a folder, and the server that the last block started."""

    def __init__(self, clone: Path, *, is_fresh: bool = False) -> None:
        """`is_fresh`: nothing is installed in the clone, so `make serve` does what it says."""
        self._clone = clone
        self._is_fresh = is_fresh
        self._python = clone / ".venv/bin/python" if is_fresh else Path(sys.executable)
        self._server: subprocess.Popen[bytes] | None = None
        self._log = clone.parent / "server.log"
        self.url = ""
        outside = {name: value for name, value in os.environ.items() if "SHOAL" not in name}
        self._environment = {
            **outside,
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(clone.parent / "state"),
            "XDG_RUNTIME_DIR": str(clone.parent),
            "SHOAL_SHUTDOWN_DELAY": "0",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def run(self, block: Block) -> None:
        """Runs one block. Raises BlockFailed."""
        if block.starts_server:
            self._start(block.code.rstrip())
            return
        if not self.url and (SHOWN in block.code or re.search(r"\bshoal |Client", block.code)):
            self._start("shoal serve --models-dir models")
        code = block.code.replace(SHOWN, self.url)
        in_shell = block.language in SHELLS
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command if in_shell else [str(self._python), "-c", code],
            cwd=self._clone,
            env={**self._environment, "SHOAL_BASE_URL": self.url or SHOWN},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        told = f"{block.place}\n{code}\nprinted: {done.stdout}\n{done.stderr[-3000:]}"
        if done.returncode:
            raise BlockFailed(f"exit code {done.returncode}: {told}\n{self._log_end()}")
        if in_shell and '{"error"' in done.stdout and '{"error"' not in (block.output or ""):
            raise BlockFailed(f"the server refused it: {told}")
        if block.output is not None:
            shown = block.output.replace(SHOWN, self.url)
            if not matches(shown, done.stdout):
                raise BlockFailed(f"the page shows other output: {told}")

    def _start(self, code: str) -> None:
        self.stop()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        if not self._is_fresh:
            code = code.replace("make serve", "exec shoal serve --models-dir models")
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=self._clone,
                env={**self._environment, "SHOAL_PORT": str(port), "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_ready(self.url, self._server, INSTALL_S if self._is_fresh else LIMIT_S)
        except TimeoutError as error:
            raise BlockFailed(f"{error}: {code}\n{self._log_end()}") from error

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def stop(self) -> None:
        """Ends the server, if there is one."""
        if self._server is not None:
            if self._server.poll() is None:
                os.killpg(self._server.pid, signal.SIGINT)
            self._server.wait(30)
        self._server, self.url = None, ""


@contextmanager
def walking(folder: Path) -> Iterator[Walk]:
    """A session in a folder of its own."""
    walk = Walk(lay_out(folder))
    try:
        yield walk
    finally:
        walk.stop()


def why_not(block: Block, page: Sequence[Block], models: Path = ROOT / "models") -> str:
    """Why a block of a page is not run here; "" = it is. `models`: where pulled ones may be."""
    if block.not_run:
        return block.not_run
    section = "".join(other.code for other in page if other.section == block.section)
    if "shoal train" in section:
        return "its section trains for minutes: tests/train"
    if "curl " in block.code and not shutil.which("curl"):
        return "curl is not installed here"
    for name, (words, path) in _PULLED.items():
        is_needed = re.search(f"shoal serve .*({words})", section) or re.search(words, block.code)
        if is_needed and not (models / path).exists():
            return f"{name} was not pulled here"
    return ""
