"""What is generated is up to date: the sync half of the SDK, and its reference page."""

import ast
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture
def generator() -> ModuleType:
    return load("generate_sync_client")


@pytest.fixture
def reference() -> ModuleType:
    return load("generate_sdk_reference")


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, DEPLOY / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sync_client_is_up_to_date(generator: ModuleType) -> None:
    assert not generator.stale_files(), "run `make fix`"


def test_changed_missing_and_left_over_files_are_noticed_and_mended(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = shutil.copytree(generator.TARGET, tmp_path / "_sync")
    monkeypatch.setattr(generator, "TARGET", target)
    (target / "client.py").unlink()
    (target / "driver.py").write_text((target / "driver.py").read_text() + "\n# by hand\n")
    (target / "old.py").write_text("")
    assert generator.stale_files() == {"client.py", "driver.py", "old.py"}
    generator.main()
    assert generator.stale_files() == set()


def test_nothing_async_is_left_in_the_sync_half(generator: ModuleType) -> None:
    asynchronous = ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await
    for path in generator.TARGET.glob("*.py"):
        text = path.read_text()
        assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, asynchronous)]
        code = text.partition("\n")[2]  # the first line names the source
        assert "async" not in code.lower().replace("_async/", "")


def test_each_sentence_that_is_replaced_exists(generator: ModuleType) -> None:
    source = "".join(path.read_text() for path in generator.SOURCE.glob("*.py"))
    for sentence in generator.SENTENCES:
        assert sentence in source


def test_the_reference_page_is_up_to_date(reference: ModuleType) -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make fix`"


def test_the_reference_page_names_every_public_class_and_argument(reference: ModuleType) -> None:
    page = reference.page()
    files = ("_results.py", "_types.py", "_errors.py", "_params.py")
    private = {"Choice", "Chunk", "WholeChoice", "ChatChunkChoice", "Delta", "ToolCallDelta",
               "FunctionCall", "TopLogprob", "TokenLogprob", "ChatLogprobs", "Queue",
               "CompletionParams", "ChatParams", "ManyParams"}  # fmt: skip
    for file in files:
        for name, node in reference.classes(file).items():
            assert f"`{name}`" in page or name in private | set(reference.TITLES)
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            if name not in private:
                for part in fields:
                    assert f"| `{ast.unparse(part.target)}` |" in page
