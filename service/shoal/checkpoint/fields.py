"""Typed access to a JSON object of a model's files; every refusal names file, field and value.

Knows nothing of networks: what the fields mean is said where they are read.
"""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from shoal.errors import ModelFolderError

MAX_SIZE = 1 << 20
"""No width, count or length of a model this server is for comes near it."""


class Fields:
    """The fields of one object. A missing field and null are the same."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        """`where`: file, for errors."""
        self._fields = fields
        self._where = where

    def get(self, name: str) -> Any:
        """The raw value, None when absent."""
        return self._fields.get(name)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 to MAX_SIZE."""
        value = self._or(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            self.refuse(name, f"be a whole number from 1 to {MAX_SIZE}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self._or(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            self.refuse(name, "be a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._or(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "be true or false")
        return value

    def word(self, name: str, default: str, known: Collection[str]) -> str:
        """One of the known words."""
        value = self._or(name, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(name, f"be one of {', '.join(known)}")
        return value

    def object(self, name: str) -> "Fields | None":
        """A nested object, whose fields are named `name.field` in errors."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, "be an object")
        return Fields(value, f"{self._where}: {name}")

    def require(self, holds: bool, name: str, rule: str) -> None:
        """Refuses the field unless the rule holds: "<name> must <rule>"."""
        if not holds:
            self.refuse(name, rule)

    def refuse(self, name: str, rule: str) -> NoReturn:
        value = repr(self.get(name))[:80]
        raise ModelFolderError(f"{self._where}: {name} must {rule}; it is {value}")

    def _or(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else value
