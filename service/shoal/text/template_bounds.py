"""Shows of a chat template that no single step of it takes much time or memory.

A step is what a line of the compiled template does: one expression, or one turn of a loop. Steps are
watched by the clock (`chat_template.py`); what lies inside one is not, so it must be small by itself.
The proof is a bound on sizes: every expression makes a value of at most `MAX_GROWTH` times the size
of everything that the template is given. Only what is known to keep that bound is allowed; of
anything else (macros, `range`, multiplication, sorting, ...) nothing is shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import nodes

MAX_GROWTH = 64.0
_INPUT_CHARS = 1024
"""A constant counts by its length in these, for what is given is at least this large or harmless."""
_MAX_VARIABLES = 256
"""With more of them the proof itself would take long."""
_CYCLE = 24.0
"""Of a variable that grows by what is added to it, step by step: the clock ends that, and no
expression may make much more of it."""

_STATEMENTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign,
    nodes.Scope, nodes.Break, nodes.Continue, nodes.ExprStmt,
)  # fmt: skip
_METHODS: Mapping[str, float] = {
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
_OF_LOOPS = ("index", "revindex", "first", "last", "length", "depth")
"""Beginnings of what a loop says of itself that is no value of its list."""
_SHRINKING = frozenset({"strip", "lstrip", "rstrip", "trim", "first", "last", "split", "items"})
"""Filters and methods through which a variable may pass on the way to itself."""
_NO_SELECTION = frozenset({"map", "selectattr", "rejectattr", "select", "reject"})
"""Filters that can name another filter or test: their arguments must be constants, and the filter
that `map` names is none."""


def has_bounded_steps(template: nodes.Template) -> bool:
    """Is it shown? False says nothing about the template."""
    try:
        _Proof(template).check()
    except (_NotShownError, RecursionError):
        return False
    return True


class _NotShownError(Exception):
    pass


class _Proof:
    def __init__(self, template: nodes.Template) -> None:
        self._template = template
        self._values: dict[str, list[nodes.Expr]] = {}
        """Variable -> what is ever assigned to it. Attributes of namespaces are ".name"."""
        self._reached: dict[str, set[str]] = {}
        """Variable -> those that its value depends on."""
        self._sizes: dict[str, float] = {}
        self._numeric: set[str] = set()

    def check(self) -> None:
        """Raises _NotShownError."""
        roots = list(self._expressions(self._template))
        if len(self._values) > _MAX_VARIABLES:
            raise _NotShownError
        self._find_numeric()
        self._find_reached()
        for name, values in self._values.items():
            for value in values:
                self._occurrences(value, self._cycle(name))
        self._sizes = dict.fromkeys(self._values, 1.0)  # a caller may give one of that name
        before: dict[str, float] = {}
        while before != self._sizes:  # each turn goes one step along the chains of variables
            before = dict(self._sizes)
            for name in self._values:
                self._sizes[name] = self._size_of_variable(name)
        for expression in roots:
            self._size(expression)

    # --- statements -----------------------------------------------------------------------------

    def _expressions(self, node: nodes.Node) -> Iterator[nodes.Expr]:
        """All that stand in statements; notes what is assigned."""
        if isinstance(node, nodes.Expr) and not isinstance(node, nodes.TemplateData):
            self._note_namespaces(node)
            yield node
            return
        if not isinstance(node, _STATEMENTS):
            raise _NotShownError
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.For):
            if node.recursive:
                raise _NotShownError
            self._note(node.target, node.iter)
            children.remove(node.target)
        elif isinstance(node, nodes.Assign):
            self._note(node.target, node.node)
            children = [node.node]
        for child in children:
            yield from self._expressions(child)

    def _note(self, target: nodes.Node, value: nodes.Expr) -> None:
        match target:
            case nodes.Name():
                self._values.setdefault(target.name, []).append(value)
            case nodes.NSRef():
                self._values.setdefault(f".{target.attr}", []).append(value)
            case nodes.Tuple():
                for item in target.items:
                    self._note(item, value)
            case _:
                raise _NotShownError

    def _note_namespaces(self, expression: nodes.Expr) -> None:
        for call in (expression, *expression.find_all(nodes.Call)):
            if isinstance(call, nodes.Call) and _is_name(call.node, "namespace"):
                for keyword in call.kwargs:
                    self._values.setdefault(f".{keyword.key}", []).append(keyword.value)

    # --- variables ------------------------------------------------------------------------------

    def _variables_of(self, node: nodes.Node) -> set[str]:
        """Those that the node reads by itself, not its children."""
        found = set[str]()
        if isinstance(node, nodes.Name):
            found.add(node.name)
        elif isinstance(node, nodes.Getattr):
            found.add(f".{node.attr}")
        elif isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Const):
                found.add(f".{node.arg.value}")
            elif not isinstance(node.arg, nodes.Slice):
                found |= {name for name in self._values if name.startswith(".")}
        return found & self._values.keys()

    def _read_by(self, expression: nodes.Expr) -> set[str]:
        parts = (expression, *expression.find_all(nodes.Expr))
        return set().union(*map(self._variables_of, parts))

    def _find_reached(self) -> None:
        reads = {
            name: set().union(*map(self._read_by, values)) for name, values in self._values.items()
        }
        for name in reads:
            found, new = set[str](), {name}
            while new:
                new = set().union(*(reads[each] for each in new)) - found
                found |= new
            self._reached[name] = found

    def _cycle(self, name: str) -> set[str]:
        """Variables that depend on this one and it on them; empty for most."""
        return {each for each in self._reached[name] if name in self._reached[each]}

    def _size_of_variable(self, name: str) -> float:
        cycle = self._cycle(name)
        known = {each: self._sizes[each] for each in cycle}
        self._sizes |= dict.fromkeys(cycle, 0.0)  # what is added to them counts
        size = max(1.0, *map(self._size, self._values[name])) + (_CYCLE if cycle else 0)
        self._sizes |= known
        return size

    def _occurrences(self, node: nodes.Expr, cycle: set[str]) -> int:
        """How often a variable of the cycle goes into the value, which may be its own next value:
        at most once, and only so that something is added to it."""
        count = 0
        match node:
            case nodes.Name():
                count = len(self._variables_of(node) & cycle)
            case nodes.Getattr() | nodes.Getitem():
                own = bool(self._variables_of(node) & cycle)
                count = max(own, self._occurrences(node.node, cycle))
            case nodes.Add():
                count = self._occurrences(node.left, cycle) + self._occurrences(node.right, cycle)
            case nodes.Concat():
                count = sum(self._occurrences(part, cycle) for part in node.nodes)
            case nodes.List() | nodes.Tuple():
                count = sum(self._occurrences(item, cycle) for item in node.items)
            case nodes.CondExpr():
                branches = [node.expr1, *([node.expr2] if node.expr2 else [])]
                count = max(self._occurrences(branch, cycle) for branch in branches)
            case nodes.Compare() | nodes.Not() | nodes.Test():
                pass  # true or false
            case nodes.And() | nodes.Or():
                count = max(
                    self._occurrences(node.left, cycle), self._occurrences(node.right, cycle)
                )
            case nodes.Filter(node=nodes.Expr() as value) if node.name in _SHRINKING:
                count = self._occurrences(value, cycle)
            case nodes.Call(node=nodes.Getattr(node=value, attr=method)) if method in _SHRINKING:
                count = self._occurrences(value, cycle)
            case _ if self._read_by(node) & cycle and not self._is_numeric(node):
                raise _NotShownError
        if count > 1 and not self._is_numeric(node):
            raise _NotShownError
        return count

    # --- numbers --------------------------------------------------------------------------------

    def _find_numeric(self) -> None:
        """Attributes of namespaces that are never anything but numbers: all, but for those that
        are not. (A plain variable may be one that the caller gives.)"""
        self._numeric = {name for name in self._values if name.startswith(".")}
        while wrong := {
            name for name in self._numeric if not all(map(self._is_numeric, self._values[name]))
        }:
            self._numeric -= wrong

    def _is_numeric(self, node: nodes.Expr) -> bool:
        match node:
            case nodes.Const():
                return isinstance(node.value, int | float)
            case nodes.Getattr(node=nodes.Name(name="loop")):
                return node.attr.startswith(_OF_LOOPS)
            case nodes.Getattr():
                return f".{node.attr}" in self._numeric and not self._may_be_given(node)
            case nodes.Filter():
                return node.name in ("length", "count", "int", "float")
            case nodes.Add() | nodes.Sub() | nodes.Mod() | nodes.FloorDiv() | nodes.Div():
                return self._is_numeric(node.left) and self._is_numeric(node.right)
            case nodes.Neg() | nodes.Pos():
                return self._is_numeric(node.node)
            case nodes.Compare() | nodes.Not() | nodes.Test():
                return True
        return False

    def _may_be_given(self, node: nodes.Getattr) -> bool:
        """Is it no attribute of a namespace, but of something that the caller gave?"""
        base = node.node
        if not isinstance(base, nodes.Name) or base.name not in self._values:
            return True
        return not all(
            isinstance(value, nodes.Call) and _is_name(value.node, "namespace")
            for value in self._values[base.name]
        )

    # --- sizes ----------------------------------------------------------------------------------

    def _size(self, node: nodes.Expr) -> float:
        """Of the value, in sizes of what is given. Raises _NotShownError beyond the bound."""
        size = self._size_of(node)
        if size > MAX_GROWTH:
            raise _NotShownError
        return size

    def _size_of(self, node: nodes.Expr) -> float:
        match node:
            case nodes.Const():
                return len(node.value) / _INPUT_CHARS if isinstance(node.value, str) else 0
            case nodes.Name() if node.name != "loop":
                return self._sizes.get(node.name, 1)
            case nodes.Getattr(node=nodes.Name(name="loop")) if node.attr.startswith(_OF_LOOPS):
                return 0
            case nodes.Getattr() | nodes.Getitem():
                if isinstance(node, nodes.Getitem):
                    self._check_item(node.arg)
                own = (self._sizes[name] for name in self._variables_of(node))
                return max(self._size(node.node), *own, 0)
            case nodes.Add() | nodes.Sub() | nodes.Div() | nodes.FloorDiv():
                return self._size(node.left) + self._size(node.right)
            case nodes.Mod() | nodes.Mul():
                # Of texts they are formatting and repeating.
                if not (self._is_numeric(node.left) and self._is_numeric(node.right)):
                    raise _NotShownError
                return self._size(node.left) + self._size(node.right)
            case nodes.Concat():
                return sum(map(self._size, node.nodes))
            case nodes.List() | nodes.Tuple():
                return sum(map(self._size, node.items))
            case nodes.Dict():
                return sum(self._size(pair.key) + self._size(pair.value) for pair in node.items)
            case nodes.Neg() | nodes.Pos():
                return self._size(node.node)
            case nodes.Not():
                self._size(node.node)
                return 0
            case nodes.And() | nodes.Or():
                return max(self._size(node.left), self._size(node.right))
            case nodes.CondExpr():
                parts = [node.test, node.expr1, *([node.expr2] if node.expr2 else [])]
                return max(map(self._size, parts))
            case nodes.Compare():
                for part in (node.expr, *(operand.expr for operand in node.ops)):
                    self._size(part)
                return 0
            case nodes.Test(node=value):
                self._plain_arguments(node)
                self._size(value)
                return 0
            case nodes.Filter(node=nodes.Expr() as value):
                return self._size(value) * self._filter_growth(node) + self._plain_arguments(node)
            case nodes.Call():
                return self._call_size(node)
        raise _NotShownError

    def _check_item(self, arg: nodes.Expr) -> None:
        parts = (arg.start, arg.stop, arg.step) if isinstance(arg, nodes.Slice) else (arg,)
        for part in parts:
            if part is not None:
                self._size(part)

    def _plain_arguments(self, node: nodes.Filter | nodes.Test | nodes.Call) -> float:
        """Their size together."""
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _NotShownError
        return sum(map(self._size, [*node.args, *(keyword.value for keyword in node.kwargs)]))

    def _filter_growth(self, node: nodes.Filter) -> float:
        options = {keyword.key: _constant(keyword.value) for keyword in node.kwargs}
        constants = [_constant(arg) for arg in node.args]
        if node.name == "tojson":
            if _NOT_CONSTANT in (*constants, *options.values()):
                raise _NotShownError
            indent = options.get("indent", constants[1] if len(constants) > 1 else None)
            is_small = indent is None or (type(indent) is int and indent <= 8) or indent == "\t"
            separators = options.get("separators")
            if not is_small or len(constants) > 2 or len(str(separators)) > 20:
                raise _NotShownError
            return _JSON if indent is None else _INDENTED_JSON
        if node.name == "join":
            separator = constants[0] if constants else ""
            if not isinstance(separator, str) or options or len(constants) > 1:
                raise _NotShownError
            return 1.0 + len(separator)
        if node.name == "replace":
            return _replace_growth(constants, options)
        if node.name in _NO_SELECTION:
            is_plain = _NOT_CONSTANT not in (*constants, *options.values())
            if not is_plain or (node.name == "map" and (constants or set(options) != {"attribute"})):
                raise _NotShownError
        if node.name in ("int", "float") and (constants or options):
            raise _NotShownError
        if node.name not in _FILTERS:
            raise _NotShownError
        return _FILTERS[node.name]

    def _call_size(self, node: nodes.Call) -> float:
        arguments = self._plain_arguments(node)
        match node.node:
            case nodes.Name(name="namespace") if not node.args:
                return arguments
            case nodes.Name(name="raise_exception"):
                return arguments
            case nodes.Name(name="strftime_now") if len(node.args) == 1:
                form = _constant(node.args[0])
                is_plain = isinstance(form, str) and len(form) <= 64
                if is_plain and not any(char.isdigit() for char in form):  # a digit is a width
                    return 1
            case nodes.Getattr(node=value, attr="replace"):
                growth = _replace_growth([_constant(arg) for arg in node.args], node.kwargs)
                return self._size(value) * growth
            case nodes.Getattr(node=value, attr=method) if method in _METHODS:
                return (self._size(value) + arguments) * _METHODS[method]
        raise _NotShownError


_NOT_CONSTANT: Any = object()


def _constant(node: nodes.Expr) -> Any:
    """The value that stands in the source, `_NOT_CONSTANT` for any other."""
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Tuple):
        values = tuple(map(_constant, node.items))
        return _NOT_CONSTANT if _NOT_CONSTANT in values else values
    return _NOT_CONSTANT


def _replace_growth(constants: list[Any], options: Any) -> float:
    """Of `replace(old, new)`."""
    if options or len(constants) != 2 or not all(isinstance(each, str) for each in constants):
        raise _NotShownError
    old, new = constants
    return max(1.0, len(new) / len(old)) if old else 1.0 + len(new)


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
