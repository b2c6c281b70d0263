"""Settings of a client: its options, their defaults, and the environment variables behind them.

The environment is read once, when a client is made. API keys never appear in a repr.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Protocol, TypedDict, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from ._retry import Clock

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_MAX_RETRIES = 2


class NotGiven(enum.Enum):
    """The type of `NOT_GIVEN`: an argument that was left out, where None has a meaning."""

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return self.name


NOT_GIVEN = NotGiven.NOT_GIVEN

Limit = float | None | NotGiven
"""Seconds; None = no limit."""


@dataclass(frozen=True, init=False)
class Timeouts:
    """Time limits of one call in seconds; None = no limit.

    `Timeouts(10)` limits each phase to 10 seconds and sets no total, as `httpx.Timeout(10)` does;
    `Timeouts(None)` has no limits. Phases that are named besides differ from that:
    `Timeouts(10, connect_s=2)`. Without a first argument the others keep their defaults.

    The limits that end a stream are checked whenever bytes arrive: a server that sends only
    keep-alive comments is noticed at its next comment, one that sends nothing at all after
    `between_data_s`.
    """

    connect_s: float | None = 5.0
    first_byte_s: float | None = 60.0
    """Until the response begins. Does not apply to a generation that is not streamed: its
    response begins only when the whole text is ready, see `answer_s`."""
    between_data_s: float | None = 60.0
    """Between two data events of a stream. Keep-alive comments do not count as data."""
    total_s: float | None = 600.0
    """From the first attempt to the last byte, waits between attempts included."""
    answer_s: float | None = None
    """Until the response to a generation that is not streamed begins; the total limits it too."""

    def __init__(
        self,
        each: Limit = NOT_GIVEN,
        *,
        connect_s: Limit = NOT_GIVEN,
        first_byte_s: Limit = NOT_GIVEN,
        between_data_s: Limit = NOT_GIVEN,
        total_s: Limit = NOT_GIVEN,
        answer_s: Limit = NOT_GIVEN,
    ) -> None:
        given = {
            "connect_s": connect_s, "first_byte_s": first_byte_s, "between_data_s": between_data_s,
            "total_s": total_s, "answer_s": answer_s,
        }  # fmt: skip
        for limit in fields(self):
            value = given[limit.name]
            if isinstance(value, NotGiven):
                value = _unnamed_limit(limit, each)
            if value is not None and not value > 0:
                raise ValueError(f"{limit.name} must be more than 0 seconds or None; got {value}")
            object.__setattr__(self, limit.name, value)


def _unnamed_limit(limit: Field[Any], each: Limit) -> float | None:
    if isinstance(each, NotGiven):
        default: Any = limit.default
        return None if default is None else float(default)
    return None if limit.name == "total_s" else each


@runtime_checkable
class HTTPTimeout(Protocol):
    """An `httpx.Timeout`, or the same class of httpx2: `read` is the limit for each wait."""

    connect: float | None
    read: float | None


TimeoutLike = float | Timeouts | HTTPTimeout | None
"""Time limits: a number of seconds for the whole call, `Timeouts`, an `httpx.Timeout`; None = no
limit."""


def to_timeouts(value: TimeoutLike | NotGiven, default: Timeouts) -> Timeouts:
    """The limits that `timeout=` stands for. A number is the total, and caps the others."""
    if isinstance(value, NotGiven):
        return default
    if isinstance(value, Timeouts):
        return value
    if isinstance(value, HTTPTimeout):
        return Timeouts(value.read, connect_s=value.connect)
    if value is None:
        return Timeouts(None)
    total_s = float(value)
    return Timeouts(
        connect_s=shorter(default.connect_s, total_s),
        first_byte_s=shorter(default.first_byte_s, total_s),
        between_data_s=shorter(default.between_data_s, total_s),
        answer_s=shorter(default.answer_s, total_s),
        total_s=total_s,
    )


def shorter(one: float | None, other: float | None) -> float | None:
    """The smaller of two limits, where None means no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class Options(TypedDict, total=False):
    """What `with_options` can change, as the constructor takes it."""

    base_url: str
    api_key: str | None
    timeout: TimeoutLike | NotGiven
    max_retries: int
    default_headers: Mapping[str, str | None] | None
    uds: str | None
    clock: Clock | None


@dataclass(frozen=True)
class Settings:
    """Validated settings of a client."""

    base_url: str = DEFAULT_BASE_URL
    """Without a trailing slash and without `/v1`."""
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    max_retries: int = DEFAULT_MAX_RETRIES
    default_headers: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    clock: Clock = field(default=Clock(), repr=False)

    def changed(self, options: Options) -> Settings:
        """A copy with the options that are given. Raises ValueError."""
        values: dict[str, Any] = {}
        if "base_url" in options:
            values["base_url"] = _checked_url(options["base_url"])
        if "api_key" in options:
            values["api_key"] = _checked_key(options["api_key"])
        if "timeout" in options:
            values["timeouts"] = to_timeouts(options["timeout"], Timeouts())
        if "max_retries" in options:
            values["max_retries"] = options["max_retries"]
            if options["max_retries"] < 0:
                raise ValueError(f"max_retries must be at least 0; got {options['max_retries']}")
        if "default_headers" in options:
            values["default_headers"] = dict(options["default_headers"] or {})
        if "clock" in options:
            values["clock"] = options["clock"] or Clock()
        return replace(self, **values)


def resolve(base_url: str | None, api_key: str | None, options: Options) -> Settings:
    """Settings of a new client: its arguments, then the environment, then the defaults."""
    if base_url is None and options.get("uds") is not None:
        base_url = "http://localhost"  # the socket is the address; this is only the Host header
    base_url = base_url or _environment("BASE_URL") or DEFAULT_BASE_URL
    api_key = _environment("API_KEY") if api_key is None else api_key
    return Settings().changed({**options, "base_url": base_url, "api_key": api_key})


def _environment(name: str) -> str | None:
    return os.environ.get(f"SHOAL_{name}") or os.environ.get(f"OPENAI_{name}") or None


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    # Reading the port checks it.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        shown = url.rpartition("@")[2][:100]
        raise ValueError(f"base_url must be like http://host:port; got {shown!r}")
    if "@" in parts.netloc:
        raise ValueError(
            "base_url must not hold a user name or password, as URLs show in logs; "
            "use api_key, or an Authorization header in default_headers"
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _checked_key(key: str | None) -> str | None:
    # A bad key must not reach the HTTP library: its error message would show the key.
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError("api_key must be printable ASCII without spaces around it")
    return key or None
