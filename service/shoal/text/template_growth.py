"""How much filters and methods of a chat template make of what they are given
(`template_bounds.py`)."""

from collections.abc import Mapping
from typing import Any

from jinja2 import nodes

METHODS: Mapping[str, float] = {
    "strip": 1, "lstrip": 1, "rstrip": 1, "split": 1, "rsplit": 1, "splitlines": 1,
    "partition": 1, "rpartition": 1, "removeprefix": 1, "removesuffix": 1,
    "startswith": 0, "endswith": 0, "find": 0, "rfind": 0, "count": 0, "isdigit": 0, "isspace": 0,
    "lower": 3, "upper": 3, "title": 3, "capitalize": 3,
    "items": 1, "keys": 1, "values": 1, "get": 1,
}  # fmt: skip
"""Name -> how much larger the result may be than the value and the arguments together."""
_FILTERS: Mapping[str, float] = {
    "trim": 1, "string": 4, "list": 1, "first": 1, "last": 1, "default": 1, "d": 1, "items": 1,
    "safe": 1, "reverse": 1, "selectattr": 1, "rejectattr": 1, "select": 1, "reject": 1, "map": 1,
    "lower": 3, "upper": 3, "title": 3, "capitalize": 3,
    "length": 0, "count": 0, "int": 0, "float": 0, "abs": 0,
}  # fmt: skip
_JSON, _INDENTED_JSON = 8.0, 16.0
_SELECTING = frozenset({"map", "selectattr", "rejectattr", "select", "reject"})
"""Filters that may name another filter or a test: allowed with constants, `map` of an attribute."""
NOT_CONSTANT: Any = object()


class NotShownError(Exception):
    """Nothing is known of an expression, or it is known to make too much."""


def filter_growth(node: nodes.Filter) -> float:
    """How much larger the result may be than the value. Raises NotShownError."""
    options: dict[Any, Any] = {pair.key: constant(pair.value) for pair in node.kwargs}
    constants = [constant(arg) for arg in node.args]
    if node.name == "tojson":
        if NOT_CONSTANT in (*constants, *options.values()):
            raise NotShownError
        indent = options.get("indent", constants[1] if len(constants) > 1 else None)
        is_small = indent is None or (type(indent) is int and indent <= 8) or indent == "\t"
        separators = options.get("separators")
        if not is_small or len(constants) > 2 or len(str(separators)) > 20:
            raise NotShownError
        return _JSON if indent is None else _INDENTED_JSON
    if node.name == "join":
        separator = constants[0] if constants else ""
        if not isinstance(separator, str) or options or len(constants) > 1:
            raise NotShownError
        return 1.0 + len(separator)
    if node.name == "replace":
        return replace_growth(constants, options)
    if node.name in _SELECTING:
        is_plain = NOT_CONSTANT not in (*constants, *options.values())
        if not is_plain or (node.name == "map" and (constants or set(options) != {"attribute"})):
            raise NotShownError
    if node.name in ("int", "float") and (constants or options):
        raise NotShownError
    if node.name not in _FILTERS:
        raise NotShownError
    return _FILTERS[node.name]


def constant(node: nodes.Expr) -> Any:
    """The value that stands in the source, `NOT_CONSTANT` for any other."""
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Tuple):
        values = tuple(map(constant, node.items))
        return NOT_CONSTANT if NOT_CONSTANT in values else values
    return NOT_CONSTANT


def replace_growth(constants: list[Any], options: Any) -> float:
    """Of `replace(old, new)`."""
    if options or len(constants) != 2 or not all(isinstance(each, str) for each in constants):
        raise NotShownError
    old, new = constants
    return max(1.0, len(new) / len(old)) if old else 1.0 + len(new)


def is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
