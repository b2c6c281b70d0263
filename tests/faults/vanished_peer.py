"""A client whose machine vanishes in the middle of a stream: two network namespaces, joined by a
cable that is pulled. Prints the seconds until the server has given everything back:
`unshare --map-root-user --net python -m tests.faults.vanished_peer FOLDER`."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.conformance.served import ServerProcess, serve_process

OURS, THEIRS = "10.99.0.1", "10.99.0.2"
LIMIT_S = 90.0
CLIENT = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
body = sys.argv[3].encode()
sock.sendall(b"POST /v1/completions HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n"
             b"Content-Type: application/json\\r\\n"
             b"Content-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
sock.recv(4096)
print("streams", flush=True)
while sock.recv(65536):
    pass
time.sleep(600)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def other_machine() -> Iterator[list[str]]:
    """A namespace joined to ours; the command to run something in it."""
    with subprocess.Popen(["unshare", "--net", "sleep", "600"]) as holder:
        try:
            time.sleep(0.5)  # until it has its namespace
            ip("link", "add", "ours", "type", "veth", "peer", "name", "theirs", "netns",
               str(holder.pid))  # fmt: skip
            inside = ["nsenter", "--target", str(holder.pid), "--net"]
            ip("link", "set", "lo", "up")
            ip("addr", "add", f"{OURS}/24", "dev", "ours")
            ip("link", "set", "ours", "up")
            for words in (("addr", "add", f"{THEIRS}/24", "dev", "theirs"),
                          ("link", "set", "theirs", "up")):  # fmt: skip
                subprocess.run([*inside, "ip", *words], check=True)
            yield inside
        finally:
            holder.kill()


def open_to_them(server: ServerProcess) -> int:
    """Connections of the server with the other machine."""
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.ip == THEIRS for one in connections)


def main(folder: Path) -> None:
    body = {"prompt": "x", "stream": True, "max_tokens": 4000, "ignore_eos": True, "n": 8,
            "logprobs": 5}  # fmt: skip
    flags = ("--host", "0.0.0.0", "--allow-unauthenticated", "--dtype", "float32")
    with other_machine() as inside, serve_process(folder, *flags) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        port = server.url.rpartition(":")[2]
        command = [*inside, sys.executable, "-c", CLIENT, OURS, port, json.dumps(body)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"streams\n"
            begun = time.monotonic()
            ip("link", "set", "ours", "down")
            while server.running() or open_to_them(server):
                assert time.monotonic() - begun < LIMIT_S, "still there"
                time.sleep(0.1)
            print(f"{time.monotonic() - begun:.1f}")
            client.kill()
        httpx.get(server.url + "/livez", timeout=10).raise_for_status()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
