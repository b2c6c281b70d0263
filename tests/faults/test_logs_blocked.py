"""Standard error that nobody reads, or that cannot be written: requests are answered, lines are
counted, and the server ends as always."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.conformance.served import ROOT, write_tiny_llama
from tests.faults.measured import Measured

REQUESTS = 600
"""Their lines are three times what a pipe holds."""


@pytest.mark.parametrize("place", ["a pipe that nobody reads", "/dev/full"])
def test_requests_are_answered_whatever_standard_error_is(
    tmp_path: Path, measured: Measured, place: str
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    stderr: int | IO[bytes] = subprocess.PIPE if place != "/dev/full" else open(place, "wb")  # noqa: SIM115
    command = ["serve", "--model", str(folder), "--port", "0", "--shutdown-delay", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "service")},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    try:
        assert process.stdout is not None
        url = next(
            found[1] for line in process.stdout if (found := re.search(rb"serves on (\S+)", line))
        ).decode()
        with httpx.Client(base_url=url, timeout=10) as client:
            answered = sum(
                client.get("/v1/models", headers={"x-request-id": "r" * 128}).status_code == 200
                for _ in range(REQUESTS)
            )
            metrics = client.get("/metrics").text
        dropped = float(re.findall(r"^shoal_log_lines_dropped_total (\S+)", metrics, re.M)[0])
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        ended_s = time.monotonic() - began
    finally:
        process.kill()
        process.communicate()
    measured(
        f"standard error is {place}",
        promised=f"{REQUESTS} of {REQUESTS} requests answered, exit code 0",
        measured=f"{answered} answered, {dropped:.0f} lines dropped, exit code {code} "
        f"after {ended_s:.1f} s",
    )
    assert answered == REQUESTS
    assert code == 0
    if place == "/dev/full":
        assert dropped > 0
