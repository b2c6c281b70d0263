"""The sync half of the SDK is what its generator makes of the async half."""

import ast
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "generate_sync_client.py"


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_sync_client", SCRIPT)
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
