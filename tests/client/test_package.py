"""What importing costs and loads, measured in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import client

SERVICE = Path(shoal.__file__).parent.parent

# What httpx and pydantic bring along, by name: nothing else may come with the SDK. The last four
# belong to httpx's own command line and are loaded wherever they happen to be installed.
ALLOWED = {
    "httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "exceptiongroup",
    "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
    "click", "rich", "pygments", "markdown_it", "mdurl",
}  # fmt: skip

REPORT = """
import json, sys, time
before = set(sys.modules)
started = time.process_time()
{code}
spent_s = time.process_time() - started
new = set(sys.modules) - before
roots = {{name.partition(".")[0] for name in new}}
ours = sorted(name for name in new if name.partition(".")[0] == "shoal")
foreign = sorted(root for root in roots - set(sys.stdlib_module_names) - {{"shoal"}}
                 if not root.startswith("_"))
print(json.dumps({{"spent_s": spent_s, "ours": ours, "foreign": foreign}}))
"""


def run(code: str) -> dict[str, Any]:
    """What a fresh interpreter loads for this code, and its processor time."""
    answer = subprocess.run(
        [sys.executable, "-c", REPORT.format(code=code)],
        env={**os.environ, "PYTHONPATH": str(SERVICE)},
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def test_importing_shoal_loads_nothing_but_itself() -> None:
    report = run("import shoal")
    assert report["ours"] == ["shoal"]
    assert report["foreign"] == []


def test_importing_shoal_takes_at_most_150_ms() -> None:
    # Processor time, and the best of three: the machine may be busy with other things.
    assert min(run("import shoal")["spent_s"] for _ in range(3)) <= 0.150


def test_the_server_side_does_not_load_the_sdk() -> None:
    assert run("import shoal.errors; shoal.__version__")["ours"] == ["shoal", "shoal.errors"]


def test_a_client_loads_only_httpx_and_pydantic() -> None:
    report = run("import shoal; shoal.Client(); shoal.AsyncClient()")
    assert set(report["foreign"]) <= ALLOWED
    assert {"httpx", "pydantic"} <= set(report["foreign"])
    outside = [name for name in report["ours"] if not f"{name}.".startswith("shoal.client.")]
    assert outside == ["shoal"]


def test_using_the_classes_does_not_yet_load_the_http_library() -> None:
    assert "httpx" not in run("import shoal; shoal.Client")["foreign"]


def test_every_name_is_there_and_listed() -> None:
    for name in shoal.__all__:
        assert getattr(shoal, name) is not None
        assert name in dir(shoal)
    assert set(shoal.__all__) - {"__version__"} <= set(client.__all__)
    for name in client.__all__:
        assert getattr(client, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Colour'"):
        shoal.Colour  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_known_without_an_installed_package() -> None:
    code = (
        "import importlib.metadata as m\n"
        "def missing(name): raise m.PackageNotFoundError(name)\n"
        "m.version = missing\n"
        "import shoal\n"
        "assert shoal.__version__ == '0.1.0', shoal.__version__\n"
        "shoal.Client()"
    )
    run(code)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(shoal.__file__).parent / "py.typed").is_file()
