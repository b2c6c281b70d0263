"""Serves a model and answers a request in a network namespace that has the loopback alone:
`unshare --map-root-user --net python -m tests.faults.no_network FOLDER`."""

import fcntl
import socket
import struct
import sys
from pathlib import Path

import httpx

from tests.conformance.served import serve_process

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def main(folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    lines = Path("/proc/net/dev").read_text().splitlines()
    devices = {line.split(":")[0].strip() for line in lines if ":" in line}
    assert devices == {"lo"}, devices
    with serve_process(folder) as server:
        body = {"prompt": "x", "max_tokens": 3, "ignore_eos": True}
        response = httpx.post(server.url + "/v1/completions", json=body, timeout=60)
        print(response.status_code, response.json()["usage"]["completion_tokens"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
