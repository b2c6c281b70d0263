"""API keys: who may call, and what each may do. Knows no request; `auth.py` finds a caller's key.

A key comes from a setting (KEY, NAME:KEY or NAME:sha256:HEX) or from a keys file, where it has a
role, rights and limits. Only hashes are kept.
"""

import hashlib
import logging
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import ConfigError

log = logging.getLogger("shoal.server")

Role = Literal["user", "gateway", "admin"]
MAX_KEYS = 1000
"""Of one file: a caller's key is compared with all of them."""
MAX_FILE_BYTES = 1 << 20
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; 0 = no such limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    """Prompt and output."""
    max_concurrent: int = 0
    """Requests at the same time."""
    max_queue: int = 0
    """Sequences in flight of one tenant on one model."""


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key."""

    name: str
    """The tenant."""
    digest: bytes = field(repr=False, default=b"")
    """SHA-256."""
    role: Role = "user"
    """A gateway's tenant is split further, by user; an admin may also use the /admin routes."""
    models: frozenset[str] | None = None
    """Those it may use; None = all."""
    max_priority: int = -10
    """The lowest number, so the highest priority, that its requests may have."""
    weight: float = 1.0
    """Its share beside other tenants'."""
    limits: KeyLimits = KeyLimits()

    def may_use(self, *names: str) -> bool:
        """A model that has these names."""
        return self.models is None or not self.models.isdisjoint(names)


ANYONE = Key("")
"""Of callers of a server without keys."""


class KeyEntry(BaseModel):
    """One [[keys]] table of a keys file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME}$")
    key: str | None = Field(None, min_length=8, max_length=512)
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    role: Role = "user"
    models: list[str] | None = Field(None, min_length=1)
    max_priority: int = Field(0, ge=-10, le=10)
    weight: float = Field(1.0, ge=0.01, le=100)
    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    max_concurrent: int = Field(0, ge=0)
    max_queue: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        if self.key is not None and (problem := problem_of(self.key)):
            raise ValueError(problem)
        return self

    def to_key(self) -> Key:
        digest = bytes.fromhex(self.sha256) if self.sha256 else digest_of(self.key or "")
        return Key(
            name=self.name,
            digest=digest,
            role=self.role,
            models=None if self.models is None else frozenset(self.models),
            max_priority=self.max_priority,
            weight=self.weight,
            limits=KeyLimits(
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                max_concurrent=self.max_concurrent,
                max_queue=self.max_queue,
            ),
        )


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def problem_of(key: str) -> str | None:
    """Why no caller could send this key in a header; None if one can."""
    if key != key.strip():
        return "the key has blanks or line breaks around it: take them away"
    if not (key.isascii() and key.isprintable()):
        return "a key is printable ASCII, so that it can be sent in a header"
    return None


def parse_setting(entry: str, number: int, setting: str, role: Role = "user") -> Key:
    """KEY, NAME:KEY or NAME:sha256:HEX, the `number`th of a setting; without a right to go before
    others, which only a keys file gives. Raises ConfigError."""
    name, colon, key = entry.partition(":")
    if not colon:
        name, key = f"key-{number}", entry
    if not key:
        raise ConfigError(f"{setting} entry {number} has no key after its name")
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{setting} entry {number}: the name before the colon is of letters, digits, '.', '_' "
            "and '-', at most 64"
        )
    if problem := problem_of(key):
        raise ConfigError(f"{setting} entry {number}: {problem}")
    if not key.startswith("sha256:"):
        return Key(name, digest_of(key), role, max_priority=0)
    try:
        digest = bytes.fromhex(key.removeprefix("sha256:"))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError(f"{setting} entry {number}: sha256 needs 64 hexadecimal digits")
    return Key(name, digest, role, max_priority=0)


def read_keys_file(path: Path) -> tuple[Key, ...]:
    """The keys of a file, at least one. Raises ConfigError, which says what is wrong in which
    entry and never shows a key."""
    entries = read_entries(path)
    if not entries:
        raise ConfigError("the keys file has no [[keys]]: add one with `shoal keys add`")
    if any(entry.key for entry in entries) and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("the keys file holds keys in the clear and others may read it: chmod 600")
    return tuple(entry.to_key() for entry in entries)


def read_entries(path: Path) -> list[KeyEntry]:
    """What a keys file says. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the keys file cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"the keys file is larger than {MAX_FILE_BYTES} bytes")
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("the keys file is not valid TOML") from error
    found = tables.pop("keys", [])
    if tables or not isinstance(found, list) or len(found) > MAX_KEYS:
        raise ConfigError(f"a keys file holds [[keys]] tables and nothing else, at most {MAX_KEYS}")
    entries = [_entry(table, number) for number, table in enumerate(found, 1)]
    for number, entry in enumerate(entries, 1):
        if any(other.name == entry.name for other in entries[: number - 1]):
            raise ConfigError(f"keys entry {number}: the name {entry.name} is there twice")
    if len({entry.to_key().digest for entry in entries}) < len(entries):
        raise ConfigError("the keys file has a key twice, under two names")
    return entries


def _entry(table: Any, number: int) -> KeyEntry:
    try:
        return KeyEntry.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "entry"
        what = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"keys entry {number}: {where}: {what[:1].lower()}{what[1:]}") from error
