"""Typed access to a JSON object of a model's files; every refusal names file, field and value.

Knows nothing of networks: what the fields mean is said where they are read.
"""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from shoal.errors import ModelFolderError

MAX_SIZE = 1 << 20
"""No width, count or length of a model this server is for comes near it."""

MAX_LAYERS = 1 << 9
"""And of the experts of a layer: each has tensors of its own, so a config that lies about their
number would take memory before the tensors are counted."""
_COUNTS_OF_LAYERS = frozenset({
    "num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_experts", "num_local_experts",
    "block_count", "expert_count",
})  # fmt: skip
"""Fields with that limit; those of GGUF behind the architecture's name."""


class Fields:
    """The fields of one object. A missing field and null are the same, but to `has`. Remembers
    which were asked for, so that the others can be named."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        """`where`: file, for errors."""
        self._fields = fields
        self._where = where
        self._read: set[str] = set()
        self._objects: dict[str, Fields] = {}

    def get(self, name: str) -> Any:
        """The raw value, None when absent."""
        self._read.add(name)
        return self._fields.get(name)

    def has(self, name: str) -> bool:
        """Is it there, be it as null?"""
        return name in self._fields

    def unread(self) -> dict[str, Any]:
        """Name -> value of what was not asked for and is not null; of objects that were asked
        for, what was not asked for in them, as `object.name`."""
        found = {
            name: value
            for name, value in self._fields.items()
            if name not in self._read and value is not None
        }
        for name, fields in self._objects.items():
            found |= {f"{name}.{inner}": value for inner, value in fields.unread().items()}
        return found

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 to MAX_SIZE, of layers and experts to MAX_LAYERS."""
        return self._whole(name, default, 1)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 on, up to the same."""
        return self._whole(name, default, 0)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self._or(name, default)
        if not _is_positive(value):
            self.refuse(name, "be a positive number")
        return float(value)

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of so many positive finite numbers."""
        values = self.get(name)
        is_list = isinstance(values, list) and len(values) == count
        if not is_list or not all(_is_positive(value) for value in values):
            self.refuse(name, f"be a list of {count} positive numbers")
        return [float(value) for value in values]

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
        if name not in self._objects:
            self._objects[name] = Fields(value, f"{self._where}: {name}")
        return self._objects[name]

    def require(self, holds: bool, name: str, rule: str) -> None:
        """Refuses the field unless the rule holds: "<name> must <rule>"."""
        if not holds:
            self.refuse(name, rule)

    def refuse(self, name: str, rule: str) -> NoReturn:
        value = repr(self.get(name))[:80]
        raise ModelFolderError(f"{self._where}: {name} must {rule}; it is {value}")

    def _whole(self, name: str, default: int | None, least: int) -> int:
        value = self._or(name, default)
        most = MAX_LAYERS if name.rpartition(".")[2] in _COUNTS_OF_LAYERS else MAX_SIZE
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(name, f"be a whole number from {least} to {most}")
        return value

    def _or(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else value


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
