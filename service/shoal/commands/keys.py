"""`shoal keys`: makes and lists the keys of a keys file. A key is shown once and kept as a hash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from shoal.server.keys import KeyEntry

keys = typer.Typer(
    help="Make and list the keys of a keys file, see `shoal serve --keys-file`.",
    no_args_is_help=True,
)

KeysFile = Annotated[
    Path, typer.Option("--file", "-f", metavar="PATH", help="The keys file.", show_default=True)
]
DEFAULT_FILE = Path("keys.toml")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Of the key; it is the tenant's.")],
    file: KeysFile = DEFAULT_FILE,
    role: Annotated[str, typer.Option(help="user, gateway or admin.")] = "user",
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A model it may use; none given = all.")
    ] = None,
    max_priority: Annotated[int, typer.Option(help="Lowest priority number it may use.")] = 0,
    weight: Annotated[float, typer.Option(help="Its share beside other tenants'.")] = 1.0,
    requests_per_minute: Annotated[int, typer.Option(help="0 = no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Prompt and output; 0 = no limit.")] = 0,
    max_concurrent: Annotated[int, typer.Option(help="Requests at once; 0 = no limit.")] = 0,
    max_queue: Annotated[int, typer.Option(help="Sequences in flight; 0 = no limit.")] = 0,
) -> None:
    """Add a key to the file and print it, this once. A running server reads the file again at
    SIGHUP, or at POST /admin/keys/reload."""
    from pydantic import ValidationError

    from shoal.server.keys import KeyEntry

    entries = _read(file)
    if any(entry.name == name for entry in entries):
        fail(f"{file} has a key {name} already")
    key = f"sk-shoal-{secrets.token_urlsafe(24)}"
    fields: dict[str, Any] = {
        "name": name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "role": role,
        **({"models": models} if models else {}),
        "max_priority": max_priority,
        "weight": weight,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrent": max_concurrent,
        "max_queue": max_queue,
    }
    try:
        entry = KeyEntry.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        fail(f"{'NAME' if option == '--name' else option}: {problem['msg'].lower()}", 2)
    _append(file, entry)
    print(key)


@keys.command("list")
def list_keys(
    file: KeysFile = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List the keys of the file: names, roles, rights and limits."""
    shown = [entry.model_dump(exclude={"key", "sha256"}) for entry in _read(file, must_exist=True)]
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    for fields in shown:
        rights = [f"{name}={value}" for name, value in fields.items() if name != "name" and value]
        print(fields["name"], *rights)


@keys.command("hash")
def hash_key() -> None:
    """Print the hash of a key that is read from standard input, for `sha256` in a keys file or
    NAME:sha256:HEX."""
    key = (typer.prompt("key", hide_input=True) if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not key:
        fail("no key was given on standard input", 2)
    print(hashlib.sha256(key.encode()).hexdigest())


def _read(file: Path, *, must_exist: bool = False) -> list[KeyEntry]:
    from shoal.errors import ConfigError
    from shoal.server.keys import read_entries

    if not must_exist and not file.exists():
        return []
    try:
        return read_entries(file)
    except ConfigError as error:
        fail(f"{file}: {error.message}", 2)


def _append(file: Path, entry: KeyEntry) -> None:
    """Adds a table; a new file is for its owner only. JSON's strings, numbers and arrays of strings
    are TOML's too."""
    values = entry.model_dump(exclude_defaults=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as out:
        out.write("\n".join(["", "[[keys]]", *lines, ""]))
