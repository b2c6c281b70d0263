"""The page in Chromium, against a server process with the models of the repository. Needs node,
chromium and two npm packages that are kept out of the repository:

    npm install --prefix .cache/page playwright-core axe-core
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.served import ROOT, serve_process
from tests.fakes.tiny_adapters import write_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TESTS = Path(__file__).parent / "browser"
TOOLS = Path(os.environ.get("PAGE_TOOLS", ROOT / ".cache" / "page"))
KEY = "a-key-of-the-test"


def run_in_browser(url: str, *files: str) -> None:
    """Runs test files of `browser` against a server. Skips where what they need is not here."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None or (node := shutil.which("node")) is None:
        pytest.skip("needs chromium and node")
    for package in ("playwright-core", "axe-core"):
        if not (TOOLS / "node_modules" / package).is_dir():
            pytest.skip(f"needs npm's {package} in {TOOLS}")
    environment = {"CHROMIUM": chromium, "SHOAL_URL": url, "PAGE_TOOLS": str(TOOLS.resolve())}
    run = subprocess.run(
        [node, "--test", "--test-concurrency=1", *(str(TESTS / file) for file in files)],
        env={**os.environ, **environment, "SHOAL_TEST_KEY": KEY},
        capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_the_page_does_what_it_promises(tmp_path: Path) -> None:
    models = ROOT / "models"
    flags = ("--model", str(models / "pilotfish"))
    with serve_process(models / "minnow", *flags, log_folder=tmp_path) as server:
        run_in_browser(server.url, "chat.test.js", "views.test.js")


def test_the_page_asks_for_a_key(tmp_path: Path) -> None:
    flags = ("--api-key", KEY)
    with serve_process(ROOT / "models" / "minnow", *flags, log_folder=tmp_path) as server:
        run_in_browser(server.url, "key.test.js")


def test_the_page_lets_an_adapter_be_chosen(tmp_path: Path) -> None:
    minnow = ROOT / "models" / "minnow"
    adapter = write_adapter(tmp_path / "tale", minnow)
    with serve_process(minnow, "--adapter", str(adapter), log_folder=tmp_path) as server:
        run_in_browser(server.url, "adapters.test.js")
