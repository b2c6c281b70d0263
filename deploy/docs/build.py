"""Builds the documentation site into build/site from docs/ and the pages that stand elsewhere.

    python deploy/docs/build.py [serve]

A page's links are those of the repository, so it reads as well where it stands. Here the pages are
laid out as the site has them (build/docs), links between them follow, and a link to a file that is
no page of the site becomes the name of the file. Then Zensical builds the site and fails on any
warning; `serve` shows it on 127.0.0.1:8001 instead. Zensical stands beside the Python that runs
this.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("zensical.toml")
STAGE = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
ADDRESS = "127.0.0.1:8001"

# File of the repository -> page of the site. Those in docs/ keep their names.
ELSEWHERE = {
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "container.md",
    "models/minnow/MODEL.md": "models/minnow.md",
    "models/pilotfish/MODEL.md": "models/pilotfish.md",
    "models/recipes/README.md": "recipes.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
OUTSIDE = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|use)\b[^>]*?\b(?:src|href|srcset)="
    r"[\"']?((?:https?:)?//[^\"'\s>]+)"
)
FENCE = re.compile(r"^ *(```+)")
NOT_RUN = re.compile(r"^ *<!-- (not run|output|run in|generated).*-->\n", re.M | re.I)


def sources() -> dict[str, str]:
    """File of the repository -> place in the site, of all pages and pictures."""
    own = (path for path in (ROOT / "docs").rglob("*") if path.is_file())
    found = {f"docs/{(name := path.relative_to(ROOT / 'docs').as_posix())}": name for path in own}
    return found | ELSEWHERE


def nav_pages(entries: Any) -> Iterator[str]:
    """All pages that the navigation names, in order."""
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, dict):
        for entry in entries.values():
            yield from nav_pages(entry)
    else:
        for entry in entries:
            yield from nav_pages(entry)


def navigation() -> list[str]:
    """All pages of the navigation, in order."""
    return list(nav_pages(tomllib.loads(CONFIG.read_text())["project"]["nav"]))


def outside_fences(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a page, and whether each is prose: not in a block of code."""
    fence = ""
    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
            yield line, False
        elif found and found[1] == fence and line.strip() == fence:
            fence = ""
            yield line, False
        else:
            yield line, not fence


def resolve(file: str, target: str) -> str:
    """A link of a file, as a path from the repository's root."""
    return os.path.normpath(PurePosixPath(file).parent / target)


def staged(file: str, text: str, places: dict[str, str]) -> str:
    """The text of a page as the site has it. `file`: where it stands in the repository."""
    here = PurePosixPath(places[file]).parent

    def link(found: re.Match[str]) -> str:
        mark, label, address = found.groups()
        target, hash_, anchor = address.partition("#")
        if not target or re.match(r"[a-z]+:", address):
            return found[0]
        path = resolve(file, target)
        if path == "README.md":
            return f"{mark}[{label}]({os.path.relpath('index.md', here)})"
        if path in places:
            return f"{mark}[{label}]({os.path.relpath(places[path], here)}{hash_}{anchor})"
        return label if label.startswith("`") else f"{label} (`{path}`)"

    return "".join(
        LINK.sub(link, line) if is_prose else line for line, is_prose in outside_fences(text)
    )


def stage() -> Path:
    """Lays out pages and pictures for Zensical; returns the path of its configuration."""
    shutil.rmtree(STAGE, ignore_errors=True)
    places = sources()
    for file, place in places.items():
        target = STAGE / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".md"):
            text = (ROOT / file).read_text(encoding="utf-8")
            target.write_text(NOT_RUN.sub("", staged(file, text, places)), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / file, target)
    return Path(shutil.copyfile(CONFIG, STAGE / CONFIG.name))


def asked_of_others(html: str) -> list[str]:
    """Addresses of other hosts that a browser asks for when it shows the page."""
    return OUTSIDE.findall(html)


def main() -> None:
    config = stage()
    zensical = Path(sys.executable).with_name("zensical")
    command = [str(zensical), "build", "--strict", "--clean"]
    if sys.argv[1:] == ["serve"]:
        command = [str(zensical), "serve", "--dev-addr", ADDRESS]
    done = subprocess.run([*command, "--config-file", str(config)], check=False)
    if done.returncode:
        sys.exit("docs: the site could not be built; what is wrong stands above")
    for page in sorted((STAGE / "site").rglob("*.html")):
        if found := asked_of_others(page.read_text(encoding="utf-8")):
            sys.exit(f"docs: {page.name} asks another host: {', '.join(found)}")
    shutil.rmtree(SITE, ignore_errors=True)
    (STAGE / "site").rename(SITE)
    print("docs: build/site/index.html")


if __name__ == "__main__":
    main()
