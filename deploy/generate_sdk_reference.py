"""Writes docs/sdk.md, the reference of the SDK, from its signatures and docstrings.

Reads the source as text and imports nothing of it. `make fix` runs this; a test in tests/rules
fails while the page is not up to date.
"""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "service" / "shoal" / "client"
PAGE = ROOT / "docs" / "sdk.md"

NOTE = (
    f"<!-- Generated from the docstrings by deploy/{Path(__file__).name}; to update: make fix -->"
)
INTRO = """\
`AsyncClient` has the names and arguments of `Client`; there every call is awaited, `async with`
and `async for` take the place of `with` and `for`. All names below are in `shoal.client`, the most
common ones in `shoal`. `pip install ./deploy/sdk` installs the SDK alone."""

# Class of a namespace -> how one reaches it.
NAMESPACES = {
    "Client": "client",
    "Completions": "client.completions",
    "Chat": "client.chat",
    "Models": "client.models",
    "Embeddings": "client.embeddings",
    "Admin": "client.admin",
    "Adapters": "client.admin.lora",
    "ServedModels": "client.admin.models",
    "Cache": "client.admin.cache",
}
PARAMS = ("Extras", "GenerationParams", "CompletionFields", "ChatFields", "ChatParseParams",
          "ChatToolParams", "TokenizeParams", "StreamOptions", "StructuredOutputs")  # fmt: skip
HIDDEN = {"with_format", "with_envelope", "from_content", "as_clock"}  # for the SDK itself
MAX_COLUMNS = 96
TITLES = {
    "Extras": "Every call",
    "GenerationParams": "Completions and chat",
    "CompletionFields": "Completions only",
    "ChatFields": "Chat only",
    "ChatParseParams": "`chat.create` and `chat.parse`",
    "ChatToolParams": "`create` and `run_tools`; `response_format` also of completions",
    "TokenizeParams": "`tokenize`",
}
TYPES = ("Ext", "UsageCost", "TokenTrace", "Usage", "Completion", "CompletionChoice", "Logprobs",
         "ChatCompletion", "ChatChoice", "Message", "ToolCall", "ParsedCompletion",
         "ParsedChatCompletion", "CompletionChunk", "ChatChunk", "Progress")  # fmt: skip


def classes(file: str) -> dict[str, ast.ClassDef]:
    """The public classes of a source file."""
    tree = ast.parse((CLIENT / file).read_text())
    found = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {node.name: node for node in found if not node.name.startswith("_")}


def page() -> str:
    """The whole page."""
    return "\n".join([NOTE, *_lines()]).rstrip() + "\n"


def _lines() -> Iterator[str]:
    module = ast.get_docstring(ast.parse((CLIENT / "__init__.py").read_text())) or ""
    example = module.partition("\n\n")[2].partition("\n\n`AsyncClient`")[0]
    yield from ("# Python SDK", "", _code(textwrap.dedent(example)), "", INTRO, "")
    api = classes("_sync/client.py") | classes("_sync/endpoints.py") | classes("_sync/admin.py")
    yield from ("## Client", "")
    yield from _class(api["Client"], "client", constructor=True)
    for name, reached in list(NAMESPACES.items())[1:]:
        yield from (f"## {reached}", "")
        yield from _methods(api[name], f"{reached}.")
    yield from ("## Arguments", "", "What is not given is not sent.", "")
    params = classes("_params.py")
    for name in PARAMS:
        yield from (f"### {TITLES.get(name, f'`{name}`')}", "")
        yield from _table(params[name])
    yield from ("## Time limits", "")
    yield from _class(classes("_settings.py")["Timeouts"], "Timeouts", constructor=True)
    yield from ("## Streams", "")
    yield from _class(classes("_sync/stream.py")["Stream"], "stream")
    yield from _members(classes("_stream.py")["BaseStream"])
    yield from ("## Structured answers", "")
    yield from (_prose(ast.get_docstring(ast.parse((CLIENT / "_structured.py").read_text()))), "")
    yield from ("## Tools", "")
    tools = classes("_tools.py")
    source = ast.parse((CLIENT / "_tools.py").read_text())
    yield from (_prose(ast.get_docstring(source)), "")
    yield from _functions(source, {"tool"})
    for name in ("Tool", "ToolError", "ToolRun"):
        yield from (f"### `{name}`", "")
        yield from _class(tools[name], name, constructor=name == "Tool")
    yield from ("## Results", "", _prose(ast.get_docstring(classes("_envelope.py")["Result"])), "")
    yield from _methods(classes("_envelope.py")["Part"], "result.")
    yield from _members(classes("_envelope.py")["Received"])
    generation = classes("_types.py")
    yield from ("### `Generation`", "", _prose(ast.get_docstring(generation["Generation"])), "")
    yield from (*_table(generation["Generation"]), *_members(generation["Generation"]))
    for found in ([generation[name] for name in TYPES], classes("_results.py").values()):
        for node in found:
            yield from (f"### `{node.name}`", "")
            yield from _class(node, node.name.lower())
    yield from ("## Errors", "")
    yield from _errors()
    yield from ("## Testing: `shoal.client.testing`", "")
    yield from _testing()


def _errors() -> Iterator[str]:
    source = ast.parse((CLIENT / "_errors.py").read_text())
    tree = (ast.get_docstring(source) or "").split("\n\n")[1]
    yield from (_code(textwrap.dedent(tree), ""), "")
    for node in classes("_errors.py").values():
        yield from (f"**`{node.name}`**", "", _prose(ast.get_docstring(node)), "")
        yield from _table(node)


def _testing() -> Iterator[str]:
    text = ast.get_docstring(ast.parse((CLIENT / "testing" / "__init__.py").read_text())) or ""
    for paragraph in _blocks(text):
        yield from (paragraph, "")
    server = classes("testing/server.py")
    for name in ("MockServer", "SeenRequest", "Canned", "Pause", "Fault", "FakeClock"):
        yield from (f"### `{name}`", "")
        yield from _class(server[name], "server" if name == "MockServer" else name)
    yield from _functions(ast.parse((CLIENT / "testing" / "routes.py").read_text()))
    yield from _functions(ast.parse((CLIENT / "testing" / "bodies.py").read_text()))


def _class(node: ast.ClassDef, prefix: str, *, constructor: bool = False) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield from (_prose(text), "")
    init = next((part for part in _defs(node) if part.name == "__init__"), None)
    if constructor and init is not None:
        yield from (_signature(node.name, init), "")
        if text := ast.get_docstring(init):
            yield from (_prose(text), "")
    yield from _table(node)
    yield from _members(node)
    yield from _methods(node, f"{prefix}.")


def _methods(node: ast.ClassDef, prefix: str) -> Iterator[str]:
    for part in _defs(node):
        if part.name.startswith("_") or _is_property(part) or part.name in HIDDEN:
            continue
        if text := ast.get_docstring(part):
            yield from (_signature(prefix + part.name, part), "", _prose(text), "")


def _members(node: ast.ClassDef) -> Iterator[str]:
    """The properties that have a docstring."""
    found = [
        f"- `.{part.name}`: {' '.join(text.split())}"
        for part in _defs(node)
        if _is_property(part) and (text := ast.get_docstring(part))
    ]
    yield from (*found, *([""] if found else []))


def _table(node: ast.ClassDef) -> Iterator[str]:
    """Fields, and what the text below each says."""
    rows = []
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)):
            continue
        if part.target.id.startswith("_") or part.target.id == "model_config":
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        kind = ast.unparse(part.annotation).replace("|", "\\|")
        if isinstance(part.value, ast.Constant) and part.value.value not in (None, ""):
            kind += f" = {part.value.value!r}"
        rows.append(f"| `{part.target.id}` | `{kind}` | {text} |")
    if rows:
        yield from ("| Name | Type | |", "|---|---|---|", *rows, "")


def _functions(tree: ast.Module, names: set[str] | None = None) -> Iterator[str]:
    found = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}
    for name, part in found.items():  # of overloads the last, which has the docstring
        text = ast.get_docstring(part)
        if text and not name.startswith("_") and (names is None or name in names):
            yield from (_signature(name, part), "", _prose(text), "")


def _defs(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """The methods; of overloads the last, which has the docstring."""
    found = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
    return list(found.values())


def _is_property(part: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in part.decorator_list)


def _signature(name: str, part: ast.FunctionDef) -> str:
    result = "" if part.returns is None else f" -> {ast.unparse(part.returns)}"
    arguments = list(_arguments(part.args))
    line = f"{name}({', '.join(arguments)}){result}"
    if len(line) > MAX_COLUMNS:
        line = "\n    ".join([f"{name}(", *(f"{argument}," for argument in arguments)])
        line += f"\n){result}"
    return _code(line)


def _arguments(given: ast.arguments) -> Iterator[str]:
    """Each argument with its type and default, without `self`."""
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    for argument, default in zip(positional, defaults, strict=True):
        if argument.arg not in ("self", "cls"):
            yield _argument(argument, default)
    if given.kwonlyargs:
        yield "*" if given.vararg is None else f"*{_argument(given.vararg)}"
    elif given.vararg is not None:
        yield f"*{_argument(given.vararg)}"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg is not None:
        yield f"**{_argument(given.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    kind = "" if argument.annotation is None else ast.unparse(argument.annotation)
    if kind.startswith("Unpack["):
        kind = kind.removeprefix("Unpack[").removesuffix("]")
    shown = f"{argument.arg}: {kind}" if kind else argument.arg
    return shown if default is None else f"{shown} = {ast.unparse(default)}"


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs; indented ones, with the blank lines between them, as code."""
    code: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            code.append(textwrap.dedent(paragraph))
            continue
        if code:
            yield _code("\n\n".join(code))
            code = []
        yield " ".join(paragraph.split())
    if code:
        yield _code("\n\n".join(code))


def _prose(text: str | None) -> str:
    return "\n\n".join(_blocks(text or ""))


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
