"""Shows of a chat template that no single step of it takes much time or memory.

A step is what a line of the compiled template does: one expression, or one turn of a loop. The
clock is looked at between steps (`chat_template.py`), not inside one, so each must be small by
itself. The proof is a bound on sizes: every expression makes a value of at most `MAX_GROWTH` times
the size of everything that the template is given. Only what is known to keep that bound is allowed;
of anything else (macros, `range`, multiplying texts, sorting, ...) nothing is shown.
"""

from jinja2 import nodes

from shoal.text.template_growth import (
    METHODS,
    NotShownError,
    constant,
    filter_growth,
    is_name,
    replace_growth,
)

MAX_GROWTH = 64.0
_INPUT_CHARS = 1024
"""A constant counts by its length in these: what is given counts as at least so much."""
_MAX_VARIABLES = 256
"""With more of them the proof itself would take long."""
_CYCLE = 24.0
"""Of a variable that grows by what is added to it, step by step: the clock ends that, and no
expression may make much more of it."""

_STATEMENTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign,
    nodes.Scope, nodes.Break, nodes.Continue, nodes.ExprStmt,
)  # fmt: skip
_OF_LOOPS = ("index", "revindex", "first", "last", "length", "depth")
"""Beginnings of what a loop says of itself that is no value of its list."""
_SHRINKING = frozenset({"strip", "lstrip", "rstrip", "trim", "first", "last", "split", "items"})
"""Filters and methods through which a variable may pass on the way to itself."""


def has_bounded_steps(template: nodes.Template) -> bool:
    """Is it shown? False says nothing about the template."""
    try:
        _Proof(template).check()
    except (NotShownError, RecursionError):
        return False
    return True


class _Proof:
    def __init__(self, template: nodes.Template) -> None:
        self._template = template
        self._num_loops = 0
        self._steps: list[tuple[str | None, nodes.Node]] = []
        """Every expression in order, with the variable that becomes it."""
        self._values: dict[str, list[nodes.Node]] = {}
        """Variable -> what is ever assigned to it. Attributes of namespaces are ".name"."""
        self._reached: dict[str, set[str]] = {}
        """Variable -> those that its value depends on."""
        self._growing: set[str] = set()
        """Variables to which something is added on the way to themselves."""
        self._sizes: dict[str, float] = {}
        self._numeric: set[str] = set()

    def check(self) -> None:
        """Raises NotShownError."""
        self._read(self._template)
        if len(self._values) > _MAX_VARIABLES:
            raise NotShownError
        self._find_numeric()
        self._find_reached()
        for name, values in self._values.items():
            for value in values:
                self._occurrences(value, self._cycle(name))
        # From top to bottom: a plain variable that is set in a loop is what it was before when the
        # next turn begins. What namespaces hold stays, so again until it is no more.
        before: dict[str, float] | None = None
        while before != (kept := {n: s for n, s in self._sizes.items() if n.startswith(".")}):
            before = kept
            self._sizes = dict.fromkeys(self._values, 1.0) | kept  # 1: a caller may give one
            for target, value in self._steps:
                if target is None:
                    self._size(value)
                else:
                    size = self._size_of_value(target, value)
                    self._sizes[target] = max(self._sizes[target], size)

    # --- statements -----------------------------------------------------------------------------

    def _read(self, node: nodes.Node) -> None:
        """Fills `_steps` and `_values`."""
        if isinstance(node, nodes.Expr) and not isinstance(node, nodes.TemplateData):
            self._note_namespaces(node)
            self._steps.append((None, node))
            return
        if not isinstance(node, _STATEMENTS):
            raise NotShownError
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.For):
            if node.recursive:
                raise NotShownError
            self._name_apart(node)
            self._note(node.target, node.iter)
            children = [child for child in children if child not in (node.target, node.iter)]
        elif isinstance(node, nodes.Assign):
            self._note(node.target, node.node)
            children = []
        for child in children:
            self._read(child)

    def _name_apart(self, loop: nodes.For) -> None:
        """Its variables exist in it only: those of another loop are others. (The parsed template
        serves this proof alone.)"""
        self._num_loops += 1
        inside = [loop.target, *loop.body, *([loop.test] if loop.test else [])]
        own = {name.name for name in _names(loop.target)}
        for part in inside:
            for name in _names(part):
                if name.name in own:
                    name.name += f"@{self._num_loops}"

    def _note(self, target: nodes.Node, value: nodes.Node) -> None:
        self._note_namespaces(value)
        match target:
            case nodes.Name():
                self._set(target.name, value)
            case nodes.NSRef():
                self._set(f".{target.attr}", value)
            case nodes.Tuple():
                for item in target.items:
                    self._note(item, value)
            case _:
                raise NotShownError

    def _note_namespaces(self, expression: nodes.Node) -> None:
        for call in (expression, *expression.find_all(nodes.Call)):
            if isinstance(call, nodes.Call) and is_name(call.node, "namespace"):
                for keyword in call.kwargs:
                    self._set(f".{keyword.key}", keyword.value)

    def _set(self, name: str, value: nodes.Node) -> None:
        self._values.setdefault(name, []).append(value)
        self._steps.append((name, value))

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

    def _read_by(self, expression: nodes.Node) -> set[str]:
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
        """Variables that depend on this one and it on them, in more than one turn of a loop; empty
        for most."""
        cycle = {each for each in self._reached[name] if name in self._reached[each]}
        return cycle if any(each.startswith(".") for each in cycle) else set()

    def _size_of_value(self, name: str, value: nodes.Node) -> float:
        cycle = self._cycle(name)
        known = {each: self._sizes[each] for each in cycle}
        self._sizes |= dict.fromkeys(cycle, 0.0)  # what is added to them counts
        size = self._size(value)
        self._sizes |= known
        return size + (_CYCLE if cycle & self._growing else 0)

    def _occurrences(self, node: nodes.Node, cycle: set[str]) -> int:
        """How often a variable of the cycle goes into the value, which may be its own next value:
        at most once, and only so that something is added to it or taken away."""
        count, adds = 0, False
        match node:
            case nodes.Name():
                count = len(self._variables_of(node) & cycle)
            case nodes.Getattr() | nodes.Getitem():
                own = bool(self._variables_of(node) & cycle)
                count = max(own, self._occurrences(node.node, cycle))
            case nodes.Add():
                count = self._occurrences(node.left, cycle) + self._occurrences(node.right, cycle)
                adds = True
            case nodes.Concat():
                count, adds = sum(self._occurrences(part, cycle) for part in node.nodes), True
            case nodes.List() | nodes.Tuple():
                count, adds = sum(self._occurrences(item, cycle) for item in node.items), True
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
                raise NotShownError
        if count > 1 and not self._is_numeric(node):
            raise NotShownError
        if adds and count and not self._is_numeric(node):
            self._growing |= cycle
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

    def _is_numeric(self, node: nodes.Node) -> bool:
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
            isinstance(value, nodes.Call) and is_name(value.node, "namespace")
            for value in self._values[base.name]
        )

    # --- sizes ----------------------------------------------------------------------------------

    def _size(self, node: nodes.Node) -> float:
        """Of the value, in sizes of what is given. Raises NotShownError beyond the bound."""
        size = self._size_of(node)
        if size > MAX_GROWTH:
            raise NotShownError
        return size

    def _size_of(self, node: nodes.Node) -> float:
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
                    raise NotShownError
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
                return self._size(value) * filter_growth(node) + self._plain_arguments(node)
            case nodes.Call():
                return self._call_size(node)
        raise NotShownError

    def _check_item(self, arg: nodes.Node) -> None:
        parts = (arg.start, arg.stop, arg.step) if isinstance(arg, nodes.Slice) else (arg,)
        for part in parts:
            if part is not None:
                self._size(part)

    def _plain_arguments(self, node: nodes.Filter | nodes.Test | nodes.Call) -> float:
        """Their size together."""
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise NotShownError
        return sum(map(self._size, [*node.args, *(keyword.value for keyword in node.kwargs)]))

    def _call_size(self, node: nodes.Call) -> float:
        arguments = self._plain_arguments(node)
        match node.node:
            case nodes.Name(name="namespace") if not node.args:
                return arguments
            case nodes.Name(name="raise_exception"):
                return arguments
            case nodes.Name(name="strftime_now") if len(node.args) == 1:
                form = constant(node.args[0])
                is_plain = isinstance(form, str) and len(form) <= 64
                if is_plain and not any(char.isdigit() for char in form):  # a digit is a width
                    return 1
            case nodes.Getattr(node=value, attr="replace"):
                growth = replace_growth([constant(arg) for arg in node.args], node.kwargs)
                return self._size(value) * growth
            case nodes.Getattr(node=value, attr=method) if method in METHODS:
                return (self._size(value) + arguments) * METHODS[method]
        raise NotShownError


def _names(node: nodes.Node) -> list[nodes.Name]:
    return [n for n in (node, *node.find_all(nodes.Name)) if isinstance(n, nodes.Name)]
