"""`shoal top`: a server's throughput, latency, queue and memory, live."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.metrics_sample import ModelRates, Sample, View, compare
from shoal.commands.terminal import (
    DEFAULT_URL,
    ApiKey,
    BaseUrl,
    connected,
    explain,
    fail,
    orderly_end,
    print_table,
    visible,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from shoal import Client

_ANSWER_S = 5.0
_GAP = 2
_DISPENSABLE = ("cores", "req/s", "between", "prompt/s", "batch", "state", "KV", "first", "waiting")
"""What a narrow terminal does without, in this order."""


def top(
    once: Annotated[
        bool, typer.Option("--once", help="Measure for one interval, write the table and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="S", help="Seconds between two looks.")
    ] = 1.0,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Watch a server: throughput, first token, batch, queue and KV use of each model.

    q or Ctrl-C ends. Without a terminal it measures once.
    """
    is_live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    with orderly_end(), connected(base_url, api_key) as client:
        client = client.with_options(max_retries=0, timeout=_ANSWER_S)
        try:
            before = _look(client)
            if is_live and not (once or as_json):
                _watch(client, before, interval, base_url)
                return
            time.sleep(interval)
            view = compare(before, _look(client))
        except ValueError as error:
            fail(f"what {base_url or DEFAULT_URL} says at /metrics cannot be read: {error}")
    if as_json:
        print(json.dumps(asdict(view), indent=2, ensure_ascii=False))
        return
    is_narrow = sys.stdout.isatty()
    print_table(_table(view, shutil.get_terminal_size().columns if is_narrow else 10_000))


def _look(client: Client) -> Sample:
    """Raises shoal.Error, and ValueError for an answer in another format."""
    return Sample.parse(client.metrics().text, time.monotonic())


def _watch(client: Client, before: Sample | None, interval_s: float, base_url: str | None) -> None:
    """Shows a frame each interval, until a key or a signal ends it."""
    from rich.console import Console
    from rich.live import Live

    from shoal import Error

    console = Console(highlight=False)
    view = compare(None, before) if before is not None else View()
    gone_since: float | None = None
    trouble = ""
    with (
        _keys(),
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
    ):
        while True:
            frame = _frame(client.base_url, view, console.width, trouble)
            live.update(frame, refresh=True)
            if _quits_within(interval_s):
                return
            try:
                now = _look(client)
            except (Error, ValueError) as error:
                gone_since = gone_since or time.monotonic()
                gone_s = time.monotonic() - gone_since
                reason = explain(error, base_url)
                trouble = f"no answer for {gone_s:,.0f} s, looking again: {reason}"
                before, view = None, View()
            else:
                view, before, gone_since, trouble = compare(before, now), now, None, ""


def _frame(url: str, view: View, width: int, trouble: str) -> RenderableType:
    """`trouble`: why there is nothing to show; "" = all is well."""
    from rich.console import Group
    from rich.text import Text

    parts = [url, time.strftime("%H:%M:%S")]
    if view.connections is not None:
        parts.append(f"{view.connections:.0f} connections")
    if view.loop_lag_s is not None:
        parts.append(f"loop lag {_time(view.loop_lag_s)}")
    head = Text(" · ".join([*parts, "q ends"]), style="dim", no_wrap=True, overflow="ellipsis")
    return Group(head, Text(visible(trouble), style="red") if trouble else _table(view, width))


def _table(view: View, width: int) -> Table:
    """As many columns as there is room for."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    rows = [_cells(rates) for rates in view.models]
    titles = list(_cells(ModelRates("", "")))
    for title in _DISPENSABLE:
        widths = (max(len(title), *(cell_len(row[title]) for row in rows), 0) for title in titles)
        if sum(widths) + _GAP * (len(titles) - 1) <= width:
            break
        titles.remove(title)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for title in titles:
        is_word = title in ("model", "state")
        table.add_column(
            title, justify="left" if is_word else "right", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*(Text(visible(row[title])) for title in titles))
    return table


def _cells(rates: ModelRates) -> dict[str, str]:
    """By title, in the order of the columns."""
    return {
        "model": rates.model,
        "state": rates.state,
        "tokens/s": _number(rates.tokens_per_s),
        "prompt/s": _number(rates.prompt_tokens_per_s),
        "req/s": _number(rates.requests_per_s, 1),
        "first": _time(rates.first_token_s),
        "between": _time(rates.between_tokens_s),
        "running": _number(rates.running),
        "waiting": _number(rates.waiting),
        "batch": _number(rates.batch_size, 1),
        "KV": "–" if rates.kv_share is None else f"{rates.kv_share:.0%}",
        "cores": _number(rates.cores, 2),
    }


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one, unseen; the terminal is then as before."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _quits_within(seconds: float) -> bool:
    """Waits, and returns whether q was pressed meanwhile."""
    deadline = time.monotonic() + seconds
    fds = [sys.stdin.fileno()] if sys.stdin.isatty() else []
    while (left := deadline - time.monotonic()) > 0:
        if select.select(fds, [], [], left)[0]:
            pressed = os.read(fds[0], 64)
            if not pressed or pressed.lower().startswith(b"q"):
                return True
    return False
