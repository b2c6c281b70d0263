"""How a client's script reports: runs in the clients' environment, on the standard library."""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LETTERS = {"type": "string", "maxLength": 8}
WEATHER = {
    "type": "object",
    "properties": {"city": LETTERS, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
"""Arguments of the tool that the checks offer, and the schema of the answers they ask for."""


@dataclass(frozen=True)
class Server:
    """The server under test."""

    url: str
    model: str


Check = Callable[[Server], None]


def report(checks: dict[str, Check]) -> None:
    """Runs every check and prints one line of JSON for each. `checks`: feature -> what tries it."""
    server = Server(*sys.argv[1:3])
    for feature, check in checks.items():
        result: dict[str, Any] = {"feature": feature, "error": None}
        try:
            check(server)
        except Exception:  # whatever a client raises is its result
            result["error"] = traceback.format_exc(limit=-3)
        print(json.dumps(result), flush=True)


def raises(kind: type[Exception], call: Callable[[], object]) -> Any:
    """The exception of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
