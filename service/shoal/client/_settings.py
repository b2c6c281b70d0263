"""What a client is set to: address, key, limits, headers, and where the defaults come from.

The environment is read here, when a client is made, and nowhere else in the SDK. Keys never
show in a repr.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from ._retry import Clock

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_MAX_RETRIES = 2


class _Unset(enum.Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "<unchanged>"


Unset = Literal[_Unset.UNSET]
UNSET: Final = _Unset.UNSET
"""Stands for "not given" where None has a meaning of its own."""


@dataclass(frozen=True)
class Timeouts:
    """Time limits of one call, in seconds; None = no limit.

    A number given as `timeout=` is the total, and no other limit is longer.

    The limits that end a stream are looked at whenever bytes arrive. A server that keeps the
    line alive with comments is noticed at its next comment; one that sends nothing at all
    after `between_data_s` of silence.
    """

    connect_s: float | None = 5.0
    first_byte_s: float | None = 60.0
    """Until the answer begins. A generation that is not streamed begins only when its whole
    text is ready, so there the total alone counts."""
    between_data_s: float | None = 60.0
    """Between two data events of a stream. Keep-alive comments do not count as data."""
    total_s: float | None = 600.0
    """From the first attempt to the last byte, with every wait in between."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise ValueError(f"{limit.name} must be more than 0 seconds or None; got {value}")


def to_timeouts(value: float | Timeouts | None, default: Timeouts) -> Timeouts:
    """`timeout=` as people give it; None = the default."""
    if value is None:
        return default
    if isinstance(value, Timeouts):
        return value
    total_s = float(value)
    return Timeouts(
        shorter(default.connect_s, total_s),
        shorter(default.first_byte_s, total_s),
        shorter(default.between_data_s, total_s),
        total_s,
    )


def shorter(one: float | None, other: float | None) -> float | None:
    """The smaller of two limits, where None is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


@dataclass(frozen=True)
class Settings:
    """Settings of a client with every default filled in. Build with `resolve`."""

    base_url: str
    """Without a trailing slash and without `/v1`."""
    api_key: str | None = field(repr=False)
    timeouts: Timeouts
    max_retries: int
    default_headers: Mapping[str, str | None] = field(repr=False)
    clock: Clock = field(repr=False)


def resolve(
    *,
    base_url: str | None,
    api_key: str | None,
    timeout: float | Timeouts | None,
    max_retries: int,
    default_headers: Mapping[str, str | None] | None,
    uds: str | None,
    clock: Clock | None,
) -> Settings:
    """Settings from a constructor's arguments and the environment. Raises ValueError."""
    if base_url is None and uds is not None:
        base_url = "http://localhost"  # the socket is the address; this is only its Host header
    return Settings(
        base_url=_checked_url(base_url or _environment("BASE_URL") or DEFAULT_BASE_URL),
        api_key=_checked_key(_environment("API_KEY") if api_key is None else api_key),
        timeouts=to_timeouts(timeout, Timeouts()),
        max_retries=_checked_retries(max_retries),
        default_headers=dict(default_headers or {}),
        clock=clock or Clock(),
    )


def change(
    settings: Settings,
    *,
    base_url: str | Unset,
    api_key: str | Unset | None,
    timeout: float | Timeouts | Unset | None,
    max_retries: int | Unset,
    default_headers: Mapping[str, str | None] | Unset | None,
    clock: Clock | Unset | None,
) -> Settings:
    """A copy of the settings with those given replaced."""
    if base_url is not UNSET:
        settings = replace(settings, base_url=_checked_url(base_url))
    if api_key is not UNSET:
        settings = replace(settings, api_key=_checked_key(api_key))
    if timeout is not UNSET:
        settings = replace(settings, timeouts=to_timeouts(timeout, Timeouts()))
    if max_retries is not UNSET:
        settings = replace(settings, max_retries=_checked_retries(max_retries))
    if default_headers is not UNSET:
        settings = replace(settings, default_headers=dict(default_headers or {}))
    if clock is not UNSET:
        settings = replace(settings, clock=clock or Clock())
    return settings


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


def _checked_retries(max_retries: int) -> int:
    if max_retries < 0:
        raise ValueError(f"max_retries must be at least 0; got {max_retries}")
    return max_retries
