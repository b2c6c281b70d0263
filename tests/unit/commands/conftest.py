"""What `shoal pull` finds and where it puts it, for its tests."""

import os
import shutil
from pathlib import Path

import pytest

from shoal.commands import fetch


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip looks into: its own configuration is respected."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def copied(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what happens once pip is done, which by itself takes seconds: wheels are copied."""

    def run(command: list[str], *_: object) -> str | None:
        wheels = list(index.glob("*.whl"))
        for wheel in wheels:
            shutil.copy(wheel, command[command.index("--dest") + 1])
        return None if wheels else "ERROR: No matching distribution found for tiny-source"

    monkeypatch.setattr(fetch, "_pip_download", lambda: ["pip", "download"])
    monkeypatch.setattr(fetch, "_run", run)
