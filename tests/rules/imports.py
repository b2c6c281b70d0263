"""Reads every import statement of the package, without importing anything of it.

Knows syntax only; which imports are allowed stands in test_imports.py.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "service" / "shoal"
RECIPES = ROOT / "models" / "recipes"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, in full dotted form, and where the statement stands."""

    file: str  # relative to the package: "engine/core.py"
    line: int
    module: str
    deferred: bool  # inside a function, or for type checkers only

    @property
    def is_ours(self) -> bool:
        """Whether it is a module inside our package; the package itself is no module of it."""
        return self.module.startswith("shoal.")

    @property
    def place(self) -> str:
        """The folder of the importing file, or the file itself at the top: "engine", "config"."""
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def target(self) -> str:
        """The same for a module of ours; "" for others."""
        return self.module.removeprefix("shoal.").split(".")[0] if self.is_ours else ""

    @property
    def package(self) -> str:
        """The top-level package imported."""
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def source_files() -> dict[str, str]:
    """Every Python file of the package: path relative to it -> text."""
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def recipe_files() -> dict[str, str]:
    """Every Python file of the recipes: path relative to the repository -> text."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in sorted(RECIPES.rglob("*.py"))
    }


@functools.cache
def package_imports() -> tuple[Import, ...]:
    """All imports of the package."""
    return tuple(
        found for file, text in source_files().items() for found in read_imports(file, text)
    )


def read_imports(file: str, text: str) -> Iterator[Import]:
    """All imports of one file, those in functions included."""
    tree = ast.parse(text, file)
    deferred = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or _for_type_checkers(outer)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        for module in _modules(node, file):
            yield Import(file, node.lineno, module, id(node) in deferred)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _modules(node: ast.AST, file: str) -> Iterator[str]:
    """The modules a statement names. `from a import b` may mean module a or module a.b: names
    of our own package are followed by what stands on disk."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = ("shoal", *file.split("/"))[: -node.level]
            base = ".".join((*above, base)).rstrip(".")
        for alias in node.names:
            yield f"{base}.{alias.name}" if _is_module(base, alias.name) else base


def _is_module(base: str, name: str) -> bool:
    if base.split(".")[0] != "shoal":
        return False
    path = PACKAGE.joinpath(*base.split(".")[1:], name)
    return path.is_dir() or path.with_suffix(".py").is_file()
