"""The page without a browser: what is served, to whom, with which headers, and that its files fit
together."""

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from shoal.server.page.routes import SECURITY_HEADERS, STATIC, read_sources
from tests.fakes.http_app import Served, serve

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_BYTES = 300 * 1024
MODULE_TESTS = Path(__file__).parent / "modules"
SOURCES = {name: body.decode() for name, body in read_sources().items()}
SCRIPTS = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


async def page_of(served: Served) -> httpx.Response:
    response = await served.client.get("/", headers=BROWSER)
    assert response.status_code == 200
    return response


async def test_a_browser_gets_the_page_and_a_program_what_it_got_before(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        page = await page_of(served)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "accept" in page.headers["vary"].lower()
        head = await served.client.head("/", headers=BROWSER)
        assert (head.status_code, head.content) == (200, b"")
        for accept in ("*/*", "application/json"):
            plain = await served.client.get("/", headers={"accept": accept})
            assert plain.text == "Shoal is running"
        generated = await served.client.post("/", json={"inputs": "Hi"}, headers=BROWSER)
        assert "generated_text" in generated.text


async def test_every_file_that_the_page_names_is_served(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        page = await page_of(served)
        links = set(re.findall(r'(?:src|href)="(/[^"]*)"', page.text)) - {"/docs"}
        assert len(links) > 10
        assert all(link.startswith("/page/") for link in links)
        version = next(iter(links)).split("/")[2]
        for name in SOURCES.keys() - {"index.html"}:
            response = await served.client.get(f"/page/{version}/{name}")
            assert response.status_code == 200, name
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        for path in ("/page/other/main.js", f"/page/{version}/routes.py", f"/page/{version}/../x"):
            assert (await served.client.get(path)).status_code == 404
    assert {link.rpartition("/")[2] for link in links} <= SOURCES.keys()


async def test_every_answer_has_the_strict_headers(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        page = await page_of(served)
        script = re.search(r'src="(/page/[^"]*/main\.js)"', page.text)
        assert script is not None
        for response in (page, await served.client.get(script[1])):
            for name, value in SECURITY_HEADERS.items():
                assert response.headers[name] == value
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_what_a_browser_has_is_not_sent_again_and_the_rest_is_zipped(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        page = await page_of(served)
        assert page.headers["content-encoding"] == "gzip"
        known = {**BROWSER, "if-none-match": page.headers["etag"]}
        again = await served.client.get("/", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        plain = await served.client.get("/", headers={**BROWSER, "accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.text == page.text


async def test_the_page_needs_no_key_and_shows_nothing_of_the_server(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["key-a"]) as served:
        page = await page_of(served)
        assert "tiny" not in page.text
        assert (await served.client.get("/v1/models", headers=BROWSER)).status_code == 401
        assert (await served.client.post("/", headers=BROWSER)).status_code == 401


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    async with serve(tmp_path, page=False) as served:
        assert (await served.client.get("/", headers=BROWSER)).text == "Shoal is running"
    async with serve(tmp_path / "b", docs=False) as served:
        assert 'class="nav-docs"' not in (await page_of(served)).text


def test_it_is_light() -> None:
    assert sum(map(len, SOURCES.values())) <= MAX_BYTES
    assert len(gzip.compress("".join(SOURCES.values()).encode())) <= MAX_BYTES // 4


def test_it_names_no_other_host() -> None:
    allowed = {"http://www.w3.org/2000/svg"}
    for name, text in SOURCES.items():
        assert set(re.findall(r"https?://[\w.-]+[\w./-]*", text)) <= allowed, name


def test_no_text_becomes_html_or_code() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML"
    for name, text in SCRIPTS.items():
        assert not re.search(ways, text), name
    assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", SOURCES["index.html"])


def test_every_id_that_a_module_asks_for_is_there() -> None:
    made = set(re.findall(r'\bid="([\w-]+)"', SOURCES["index.html"]))
    assert len(made) == len(re.findall(r'\bid="([\w-]+)"', SOURCES["index.html"]))
    made |= set(re.findall(r'\bid: "([\w-]+)"', "".join(SCRIPTS.values())))
    fields = set(re.findall(r'"(\w+)"', SCRIPTS["controls.js"]))
    made |= {f"set-{field}{end}" for field in fields for end in ("", "-field")}
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= made, name
    references = r'(?:aria-controls|aria-labelledby|aria-describedby|for)="([\w-]+)"'
    assert set(re.findall(references, SOURCES["index.html"])) <= made
    icons = set(re.findall(r'icon\("([\w-]+)"\)', "".join(SCRIPTS.values())))
    assert {f"icon-{icon}" for icon in icons} <= made


def test_every_import_is_a_file_of_the_page() -> None:
    for name, text in SCRIPTS.items():
        for target in re.findall(r'(?:from|import)\s*\(?"\./([\w.-]+)"', text):
            assert target in SOURCES, f"{name} imports {target}"


def test_no_module_is_longer_than_one_can_read() -> None:
    assert {name for name, text in SCRIPTS.items() if text.count("\n") > 300} == set()
    assert SOURCES["style.css"].count("\n") <= 400
    assert {path.suffix for path in STATIC.iterdir()} <= {".html", ".css", ".js", ".svg"}


def test_the_modules_pass_their_own_tests() -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed")
    files = sorted(map(str, MODULE_TESTS.glob("*.test.js")))
    run = subprocess.run(
        [node, "--test", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]
