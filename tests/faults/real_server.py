"""`shoal serve` as a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

MODEL = "minnow"


@contextmanager
def server(log: Path, *flags: str) -> Iterator[str]:
    """The URL of `shoal serve` with a shipped model; `flags` are Python's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    main = "from shoal.cli import main; main()"
    command = [sys.executable, *flags, "-c", main, "serve", f"models/{MODEL}", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": "service"}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)
