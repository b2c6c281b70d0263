"""A keys file with a real server: read again at SIGHUP, kept as it was when it is broken."""

import signal
import time
from pathlib import Path

import httpx

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama

KEYS = '[[keys]]\nname = "ann"\nkey = "key-of-ann"\nrequests_per_minute = 5\n'


def status(server: ServerProcess, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(server.url + "/v1/models", headers=headers, timeout=10).status_code


def becomes(server: ServerProcess, key: str, expected: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if status(server, key) == expected:
            return True
        time.sleep(0.05)
    return False


def test_keys_change_at_a_signal_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    with serve_process(folder, "--keys-file", str(keys)) as server:
        assert (status(server, "key-of-ann"), status(server, "key-of-bob")) == (200, 401)
        body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
        answer = httpx.post(
            server.url + "/v1/completions",
            json=body,
            headers={"x-api-key": "key-of-ann"},
            timeout=20,
        )
        assert answer.headers["x-ratelimit-remaining-requests"] == "4"
        keys.write_text(KEYS + KEYS.replace("ann", "bob"))
        server.process.send_signal(signal.SIGHUP)
        assert becomes(server, "key-of-bob", 200)
        keys.write_text("broken")
        server.process.send_signal(signal.SIGHUP)
        log = tmp_path / "server.log"
        end = time.monotonic() + 20
        while "the keys stay as they were" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert "the keys stay as they were" in log.read_text()
        assert (status(server, "key-of-ann"), status(server, "key-of-bob")) == (200, 200)
        for secret in ("environ", "cmdline"):
            assert b"key-of" not in Path(f"/proc/{server.engine_pid}/{secret}").read_bytes()
