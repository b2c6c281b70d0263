"""The lock files: every wheel pinned and hashed, nothing known to be weak, nothing forgotten."""

import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FILES = ["server", "torch", "torch-cpu", "build", "dev", "uv", "audit", "docs"]

# Below these, known holes are open.
FLOORS = {
    "starlette": "1.3.1",
    "h11": "0.16",
    "pydantic": "2.4",
    "jinja2": "3.1.6",
    "torch": "2.10",
    "idna": "3.15",
    "urllib3": "2.7",
    "protobuf": "6.33.5",
    "ray": "2.56",
}
# Parses forms; the server has none.
ABSENT = {"python-multipart"}


def lock_text(file: str) -> str:
    return (ROOT / "requirements" / f"{file}.lock").read_text()


def pins(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each pinned requirement with its SHA-256 hashes."""
    for block in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        if block.strip() and not block.startswith("#"):
            requirement, *hashes = block.split("--hash=sha256:")
            yield Requirement(requirement), [text.strip() for text in hashes]


def locked(*files: str) -> dict[str, list[Version]]:
    """Package name -> the versions the files pin."""
    found: dict[str, list[Version]] = {}
    for file in files:
        for pin, _ in pins(lock_text(file)):
            (version,) = pin.specifier
            found.setdefault(canonical(pin.name), []).append(Version(version.version))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(extra: str, project: dict) -> Iterator[Requirement]:
    """What pyproject.toml asks for, extras of our own followed."""
    for text in project["optional-dependencies"][extra]:
        if text.startswith("shoal["):
            for other in text[6:-1].split(","):
                yield from wanted(other, project)
        else:
            yield Requirement(text)
    yield from map(Requirement, project["dependencies"])


@pytest.mark.parametrize("file", FILES)
def test_every_package_is_pinned_exactly_and_hashed(file: str) -> None:
    found = list(pins(lock_text(file)))
    assert found
    for pin, hashes in found:
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
        assert hashes, pin
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes), pin


@pytest.mark.parametrize("file", FILES)
def test_no_file_says_where_packages_come_from(file: str) -> None:
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|@ ", lock_text(file))


def test_no_version_has_a_known_hole() -> None:
    versions = locked(*FILES)
    weak = [
        f"{name} {version} < {floor}"
        for name, floor in FLOORS.items()
        for version in versions.get(name, [])
        if version < Version(floor)
    ]
    assert not weak
    assert not ABSENT & versions.keys()


@pytest.mark.parametrize(
    ("extra", "files"),
    [
        ("server", ["server"]),
        ("torch", ["server", "torch"]),
        ("torch", ["server", "torch-cpu"]),
        ("dev", ["server", "torch", "dev"]),
    ],
)
def test_the_lock_files_hold_all_that_pyproject_asks_for(extra: str, files: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = locked(*files)
    for need in wanted(extra, project):
        found = versions.get(canonical(need.name), [])
        assert found, f"{need} is not locked: run `make lock`"
        assert all(need.specifier.contains(version) for version in found), need


def test_the_build_needs_are_locked() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    versions = locked("build")  # installed before anything else, so complete in itself
    for need in map(Requirement, build["requires"]):
        found = versions.get(canonical(need.name), [])
        assert found, f"{need} is not locked: run `make lock`"
        assert all(need.specifier.contains(version) for version in found), need


def test_the_server_is_locked_without_torch_and_what_only_torch_needs() -> None:
    assert not {"torch", "triton", "sympy", "networkx"} & locked("server", "build").keys()


def test_a_package_in_two_files_has_one_version() -> None:
    for one, other in itertools.combinations(FILES, 2):
        first, second = locked(one), locked(other)
        for name in (first.keys() & second.keys()) - {"torch"}:
            assert first[name] == second[name], f"{name} in {one}.lock and {other}.lock"


def test_the_two_torch_files_pin_one_version() -> None:
    (default,), (cpu,) = locked("torch")["torch"], locked("torch-cpu")["torch"]
    assert default.public == cpu.public
    assert cpu.local == "cpu"
