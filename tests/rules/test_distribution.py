"""What a wheel and a source distribution hold: all that is needed, and nothing else."""

import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from scikit_build_core import build

from tests.rules.imports import PACKAGE

ROOT = Path(__file__).resolve().parents[2]
PAGE = {".html", ".css", ".js", ".svg"}
SOURCES = {".py", ".pyi", ".typed", ".cpp", ".h", ".txt", ".json", *PAGE}
LICENSES = {"LICENSE", "LICENSES/nanobind.txt", "LICENSES/robin-map.txt"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., str]], Path]:
    """Runs a function of the build backend in the repository, without compiling."""
    monkeypatch.chdir(ROOT)

    def run(function: Callable[..., str]) -> Path:
        return tmp_path / function(str(tmp_path), {"wheel.cmake": "false"})

    return run


def sources(suffixes: set[str]) -> set[str]:
    """The package's own files with these suffixes, as "shoal/..."."""
    files = (path for path in PACKAGE.rglob("*") if path.suffix in suffixes)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in files}


def test_a_wheel_holds_the_python_files_and_the_licenses(
    made: Callable[[Callable[..., str]], Path],
) -> None:
    with zipfile.ZipFile(made(build.build_wheel)) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    files = {name for name in names - info if "/_native." not in name}
    assert files == sources({".py", ".typed", *PAGE})
    shown = {name.partition("/licenses/")[2] for name in info if "/licenses/" in name}
    assert shown == LICENSES


def test_a_source_distribution_holds_what_an_install_needs(
    made: Callable[[Callable[..., str]], Path],
) -> None:
    with tarfile.open(made(build.build_sdist)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    code = {f"service/{name}" for name in sources(SOURCES)}
    assert names == code | LICENSES | {"README.md", "pyproject.toml", "PKG-INFO"}


def test_the_sdk_alone_is_pure_python_without_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "deploy" / "sdk")
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as archive:
        names = set(archive.namelist())
        (wheel,) = (archive.read(name).decode() for name in names if name.endswith("/WHEEL"))
    files = {name for name in names if ".dist-info/" not in name}
    outside = {name for name in files if not name.startswith("shoal/client/")}
    assert outside == {"shoal/__init__.py", "shoal/py.typed"}
    inside = {name for name in sources({".py"}) if name.startswith("shoal/client/")}
    assert files - outside == inside
    assert "Tag: py3-none-any" in wheel
    assert not [name for name in names if name.endswith("entry_points.txt")]


def test_the_sdk_alone_has_the_version_and_needs_of_the_whole() -> None:
    whole, sdk = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for folder in (".", "deploy/sdk")
    )
    for key in ("version", "dependencies", "requires-python", "license"):
        assert sdk[key] == whole[key]
    assert "scripts" not in sdk
