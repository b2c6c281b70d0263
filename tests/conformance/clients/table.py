"""Runs every client against one server and writes the table client x feature x pass.

    python -m tests.conformance.clients.table --out docs/clients.md [--only openai,ollama]

Installs each client once, with pip or npm, into .cache/clients; starts `shoal serve` with the
models given (default: smollm2, the smallest of the catalogue that chats, and where it was pulled
minilm, which makes embeddings).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.served import ROOT, serve_process

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "clients"
ENCODER = ROOT / "models" / "minilm"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Client:
    """One entry of clients.toml."""

    name: str
    script: str | None = None
    """None: installed here, run elsewhere."""
    packages: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return CACHE / self.name

    @property
    def is_installed(self) -> bool:
        return (self.folder / ("node_modules" if self.npm else "bin/python")).exists()

    def install(self) -> None:
        """Raises CalledProcessError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.npm:
            npm = ["npm", "install", "--silent", "--no-fund", *self.npm]
            subprocess.run(npm, cwd=self.folder, check=True)
            return
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        pip = [self.folder / "bin/python", "-m", "pip", "install", "--quiet", *self.packages]
        subprocess.run(pip, check=True)

    def command(self) -> list[str]:
        assert self.script is not None
        if self.npm:  # Node looks for packages beside the script
            shutil.copy(HERE / self.script, self.folder)
            return ["node", self.script]
        return [str(self.folder / "bin/python"), str(HERE / self.script)]

    def version(self) -> str:
        if self.npm:
            lock = json.loads((self.folder / "node_modules/.package-lock.json").read_text())
            found = {name.removeprefix("node_modules/"): of["version"]
                     for name, of in lock["packages"].items()}  # fmt: skip
            return ", ".join(f"{name} {found[name]}" for name in self.npm if name in found)
        name = self.packages[-1].partition("[")[0].partition("<")[0]
        code = f"from importlib.metadata import version; print('{name}', version('{name}'))"
        python = self.folder / "bin/python"
        return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Outcome:
    """What one feature did."""

    client: str
    feature: str
    ok: bool
    detail: str


def clients() -> list[Client]:
    entries = tomllib.loads((HERE / "clients.toml").read_text())
    return [
        Client(name, of.get("script"), tuple(of.get("packages", ())), tuple(of.get("npm", ())))
        for name, of in entries.items()
    ]


def run_client(client: Client, url: str, model: str, encoder: str) -> list[Outcome]:
    """The outcome of every feature; a script that ends early is one more that failed. `encoder`:
    the model that makes embeddings; empty = none."""
    keys = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        client.command(), capture_output=True, text=True, timeout=TIMEOUT_S, cwd=client.folder,
        env={**os.environ, **keys, "SHOAL_URL": url, "SHOAL_MODEL": model,
             "SHOAL_ENCODER": encoder},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    outcomes = [Outcome(client.name, of["feature"], of["ok"], of["detail"]) for of in found]
    if done.returncode or not outcomes:
        outcomes.append(Outcome(client.name, "script", False, done.stderr[-400:]))
    return outcomes


def encoder_flags() -> tuple[str, ...]:
    """Of a server that makes embeddings too, where it can."""
    return ("--model", str(ENCODER)) if ENCODER.exists() else ()


def as_markdown(outcomes: Sequence[Outcome], versions: dict[str, str], models: str) -> str:
    lines = [
        "# Clients",
        "",
        f"Real client programs against `shoal serve` with {models}, as `python -m "
        "tests.conformance.clients.table` runs them.",
        "",
        "| client | feature | works |",
        "|---|---|---|",
    ]
    for outcome in outcomes:
        works = "yes" if outcome.ok else f"no: {outcome.detail}".replace("|", "/")
        lines.append(f"| {versions[outcome.client]} | {outcome.feature} | {works} |")
    num_ok = sum(outcome.ok for outcome in outcomes)
    lines += ["", f"{num_ok} of {len(outcomes)} work. Python {platform.python_version()}."]
    return "\n".join(" ".join(line.split("\n")) for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--only", default="", help="clients, separated by commas")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2.gguf")
    parser.add_argument("--encoder", default=ENCODER.name if ENCODER.exists() else "",
                        help="the server's model that makes embeddings")  # fmt: skip
    parser.add_argument("--url", help="a server that runs already; else one is started")
    arguments = parser.parse_args()
    only = {name for name in arguments.only.split(",") if name}
    chosen = [client for client in clients() if not only or client.name in only]
    for client in chosen:
        if not client.is_installed:
            print(f"installing {client.name} ...", file=sys.stderr)
            client.install()
    if arguments.url:
        outcomes = run_all(chosen, arguments.url, arguments.model.stem, arguments.encoder)
    else:
        CACHE.mkdir(parents=True, exist_ok=True)
        with serve_process(arguments.model, *encoder_flags(), log_folder=CACHE) as server:
            outcomes = run_all(chosen, server.url, arguments.model.stem, arguments.encoder)
    versions = {client.name: client.version() for client in chosen if client.script}
    models = " and ".join(filter(None, (arguments.model.stem, arguments.encoder)))
    text = as_markdown(outcomes, versions, models)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)
    return int(not all(outcome.ok for outcome in outcomes))


def run_all(chosen: Sequence[Client], url: str, model: str, encoder: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for client in chosen:
        if client.script is None:
            continue
        found = run_client(client, url, model, encoder)
        outcomes += found
        num_ok = sum(outcome.ok for outcome in found)
        print(f"{client.name}: {num_ok} of {len(found)}", file=sys.stderr)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
