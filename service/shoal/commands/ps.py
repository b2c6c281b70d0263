"""`shoal ps`: the servers of this user on this machine, or one at an address."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.metrics_sample import Sample
from shoal.commands.terminal import ApiKey, fail, print_table, visible

if TYPE_CHECKING:
    from rich.table import Table

    from shoal.server.run_file import RunFile

_ANSWER_S = 2.0


@dataclass(slots=True)
class Server:
    """What is known of one server; None = not known. `models`: name -> state. Times in seconds."""

    url: str
    pid: int | None = None
    up_s: float | None = None
    memory_bytes: int | None = None
    """Of all its processes, shared pages counted once where the system tells (Linux)."""
    models: dict[str, str] = field(default_factory=dict)
    running: int | None = None
    waiting: int | None = None
    remark: str = ""
    answers: bool = True


def ps(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", "--base-url", metavar="URL", help="Ask the server at this address only."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    api_key: ApiKey = None,
) -> None:
    """List the servers that this user runs on this machine: address, models, requests, memory.

    Servers that `shoal run` starts for itself are not among them.
    """
    from shoal.server.run_file import running_servers

    noted = running_servers()
    if url is not None:
        url = url.rstrip("/")
        servers = [_look(url, next((each for each in noted if each.url == url), None), api_key)]
        if not servers[0].answers:
            fail(f"no server answers at {url}: start one with `shoal serve`")
    else:
        servers = [_look(each.url, each, api_key) for each in noted]
    if as_json:
        print(json.dumps([asdict(server) for server in servers], indent=2, ensure_ascii=False))
    elif servers:
        print_table(_table(servers))
    else:
        print("no server of this user runs here: `shoal serve` starts one")


def _look(url: str, noted: RunFile | None, api_key: str | None) -> Server:
    """Asks the system and the server; a server that does not answer has a remark."""
    from shoal import AuthenticationFailed, Client, ConnectionFailed, Error, PermissionDenied

    server = Server(url)
    if noted is not None:
        server.pid, server.up_s = noted.pid, time.time() - noted.began
        server.memory_bytes = _memory_bytes(noted.pid)
    try:
        with Client(url, api_key=api_key, timeout=_ANSWER_S, max_retries=0) as client:
            health = client.health()
            for name, state in (health.models or {}).items():
                server.models[name] = str(state.get("state"))
            if health.status != "ok":
                server.remark = health.status.replace("_", " ")
            sample = Sample.parse(client.metrics().text, time.monotonic())
            server.running = sample.total("shoal_requests_running")
            server.waiting = sample.total("shoal_requests_waiting")
    except (AuthenticationFailed, PermissionDenied):
        server.remark = "requests: needs a key, --api-key"
    except ConnectionFailed:
        server.remark, server.answers = "does not answer", False
    except (Error, ValueError, AttributeError) as error:
        server.remark, server.answers = f"is no Shoal server: {error}", False
    return server


def _memory_bytes(pid: int) -> int | None:
    """Of a process and all that it started."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    total = 0
    for each in family:
        try:
            memory = each.memory_full_info()
            total += getattr(memory, "pss", 0) or memory.rss
        except psutil.Error:
            continue
    return total or None


def _table(servers: list[Server]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("address", overflow="fold")
    table.add_column("models", overflow="fold")
    for title in ("up", "running", "waiting", "memory", "pid"):
        table.add_column(title, justify="right", no_wrap=True)
    has_remarks = any(server.remark for server in servers)
    if has_remarks:
        table.add_column("remark")
    for server in servers:
        memory = server.memory_bytes
        cells = (
            server.url,
            ", ".join(name if state == "ready" else f"{name} ({state})"
                      for name, state in server.models.items()) or "–",
            "–" if server.up_s is None else duration(server.up_s),
            _shown(server.running),
            _shown(server.waiting),
            "–" if memory is None else f"{memory / 1e6:,.0f} MB",
            _shown(server.pid),
            *([server.remark] if has_remarks else []),
        )  # fmt: skip
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def _shown(number: int | None) -> str:
    return "–" if number is None else f"{number}"


def duration(seconds: float) -> str:
    """In the two largest units: 3 s, 4 min 10 s, 2 h 5 min, 3 d 1 h."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest = int(seconds)
    parts: list[str] = []
    for name, size in units:
        number, rest = divmod(rest, size)
        if number or parts or name == "s":
            parts.append(f"{number} {name}")
    return " ".join(parts[:2])
