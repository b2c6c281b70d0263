"""The documentation as a whole: links, navigation, what is generated, what the pages claim."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from shoal.config import Settings
from tests.docs.blocks import ROOT
from tests.rules.test_generated import load

DOCS = ROOT / "deploy" / "docs"
PROSE = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").glob("*.md")),
    *sorted((ROOT / "models").glob("*/*.md")),
]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return load("docs/build")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        return load("docs/generate")
    finally:
        sys.path.remove(str(DOCS))


def anchors(text: str) -> set[str]:
    """Those that GitHub and the site give to the headings of a page."""
    heads = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", head).strip().lower() for head in heads)
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(path: Path, build: ModuleType) -> None:
    file = path.relative_to(ROOT).as_posix()
    broken = []
    for line, is_prose in build.outside_fences(path.read_text(encoding="utf-8")):
        for _, _, address in build.LINK.findall(line) if is_prose else ():
            target, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            found = ROOT / build.resolve(file, target) if target else path
            has_anchor = not anchor or (
                found.suffix == ".md" and anchor in anchors(found.read_text(encoding="utf-8"))
            )
            if not found.exists() or not has_anchor:
                broken.append(address)
    assert not broken


def test_the_navigation_names_every_page_once(build: ModuleType) -> None:
    named = build.navigation()
    pages = {place for place in build.sources().values() if place.endswith(".md")}
    assert len(named) == len(set(named))
    assert set(named) == pages


def test_every_picture_is_shown_somewhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PROSE)
    files = (path for path in (ROOT / "docs" / "images").rglob("*") if path.is_file())
    unused = [path.name for path in files if path.name not in text]
    assert not unused


def test_a_link_to_a_file_that_is_no_page_becomes_its_name(build: ModuleType) -> None:
    places = {"docs/a.md": "a.md", "SECURITY.md": "security.md", "models/x/MODEL.md": "models/x.md"}
    text = "[s](../SECURITY.md#how) [x](../models/x/MODEL.md) [c](../models/catalogue.toml)\n"
    assert build.staged("docs/a.md", text, places) == (
        "[s](security.md#how) [x](models/x.md) c (`models/catalogue.toml`)\n"
    )
    assert build.staged("docs/a.md", "[s](https://x.org) [t](#t)\n", places) == (
        "[s](https://x.org) [t](#t)\n"
    )
    code = "```md\n[s](../SECURITY.md)\n```\n"
    assert build.staged("docs/a.md", code, places) == code


@pytest.mark.parametrize(
    ("html", "asks"),
    [
        ('<script src="https://x.org/a.js">', True),
        ('<link rel="stylesheet" href=//x.org/a.css>', True),
        ('<img alt="a" src="images/a.png">', False),
        ('<a href="https://x.org/">', False),
    ],
)
def test_a_page_that_asks_another_host_is_noticed(html: str, asks: bool, build: ModuleType) -> None:
    assert bool(build.asked_of_others(html)) == asks


def test_generated_pages_and_pictures_are_up_to_date(generate: ModuleType) -> None:
    assert not generate.stale_files(), "run `make fix`"


def test_a_changed_page_is_noticed_and_mended(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages = {"reference/metrics.md": generate.PAGES["reference/metrics.md"]}
    monkeypatch.setattr(generate, "PAGES", pages)
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.stale_files() == pages.keys()
    generate.main()
    assert not generate.stale_files()
    (tmp_path / "reference" / "metrics.md").write_text("by hand")
    assert generate.stale_files() == pages.keys()


def test_the_reference_names_every_setting_route_and_command() -> None:
    text = {
        name: (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
        for name in ("settings", "http", "cli")
    }
    for name in Settings.model_fields:
        assert f"| `{name}` |" in text["settings"]
    for route in ("POST /v1/chat/completions", "POST /api/chat", "GET /metrics",
                  "POST /admin/lora/load"):  # fmt: skip
        assert f"## {route}\n" in text["http"]
    for command in ("serve", "chat", "bench", "keys add", "train"):
        assert f"## shoal {command}\n" in text["cli"]


def test_the_figures_of_the_readme_are_among_those_that_were_measured() -> None:
    """Each number of the README's table stands in the pages of its source."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| why |")[2]
    rows = table.partition("\n\n")[0]
    source = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\b\d[\d,.]*\b(?= tokens/s| ms| MB| times| /)|\d[\d,]{4,}", rows)
    assert len(numbers) > 8
    missing = [number for number in numbers if not re.search(rf"\b{re.escape(number)}\b", source)]
    assert not missing


def test_every_figure_has_its_machine_and_command() -> None:
    figures = tomllib.loads((DOCS / "figures.toml").read_text(encoding="utf-8"))["figure"]
    for figure in figures:
        assert figure["machine"]
        assert re.match(r"make |python -m tests\.benchmarks|shoal bench", figure["command"])
        assert all(len(row) == len(figure["columns"]) for row in figure["rows"])
        assert set(figure.get("plot", ())) <= set(figure["columns"])
        for module in re.findall(r"python -m (tests\.[\w.]+)", figure["command"]):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_deployment_of_the_cluster_page_fits_the_server() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = {entry["name"].removeprefix("SHOAL_").lower() for entry in container["env"]}
    assert names <= Settings.model_fields.keys()
    settings = Settings()
    needed_s = settings.shutdown_delay + settings.drain_timeout + 5
    assert pod["terminationGracePeriodSeconds"] >= needed_s
    routes = (ROOT / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    for probe in ("readinessProbe", "livenessProbe"):
        assert f"## GET {container[probe]['httpGet']['path']}\n" in routes
    assert "enableServiceLinks" in pod


def test_pictures_have_colours_for_dark_pages() -> None:
    for folder in ("drawings", "plots"):
        for path in (ROOT / "docs" / "images" / folder).glob("*.svg"):
            text = path.read_text(encoding="utf-8")
            assert "prefers-color-scheme:dark" in text
            style, _, drawn = text.partition("</style>")
            assert not re.findall(r"#[0-9a-f]{6}\b", drawn.lower().replace("#000000", ""))
            assert "<script" not in text
            assert "--c0" in style
