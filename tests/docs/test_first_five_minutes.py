"""The guide's first page, walked line by line on a copy of the repository as git has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, read
from tests.docs.walk import Walk, why_not

PAGE = "docs/first-five-minutes.md"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone, not a copy")
def test_a_newcomer_can_copy_the_lines(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk = Walk(clone, is_fresh=True)
    blocks = read(PAGE)
    assert blocks[0].code == "make serve\n"
    try:
        for block in blocks:
            if reason := why_not(block, blocks, clone / "models"):
                with capsys.disabled():
                    print(f"\n  {block.place} is not run: {reason}")
            else:
                walk.run(block)
    finally:
        walk.stop()
