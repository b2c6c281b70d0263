"""Runs the clients' scripts against a server: `python -m tests.conformance.clients.run URL MODEL`
prints the table client x feature x pass, in Markdown, and the errors."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

from tests.conformance.clients.environment import FOLDER, clients_python

SCRIPTS = FOLDER / "scripts"
TIMEOUT_S = 300
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Result:
    """What a client said of one feature; the error is None if it works."""

    feature: str
    error: str | None


def script_names() -> list[str]:
    return sorted(path.stem for path in SCRIPTS.glob("*.py"))


def package_of(name: str) -> str:
    """The package whose client a script uses, as its first line says: `# client: NAME`."""
    return (SCRIPTS / f"{name}.py").read_text().partition("\n")[0].removeprefix("# client: ")


def version_of(package: str) -> str | None:
    """The installed version, None without it."""
    python = clients_python()
    if not python.exists():
        return None
    done = subprocess.run([python, "-c", _VERSION, package], capture_output=True, text=True,
                          check=False)  # fmt: skip
    return done.stdout.strip() or None


def run_script(name: str, url: str, model: str) -> list[Result]:
    """Raises RuntimeError if the script itself fails."""
    kept = {key: value for key, value in os.environ.items()
            if not re.search("PROXY|API_KEY|BASE_URL|OLLAMA|PYTHONPATH", key.upper())}  # fmt: skip
    done = subprocess.run(
        [clients_python(), SCRIPTS / f"{name}.py", url, model],
        env={**kept, "PYTHONPATH": str(FOLDER), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stdout}{done.stderr}")
    return [Result(**json.loads(line)) for line in done.stdout.splitlines()]


def table(results: dict[str, list[Result]]) -> str:
    """Markdown: a row per feature of each client."""
    rows = ["| client | feature | works |", "|---|---|---|"]
    for name, found in results.items():
        package = package_of(name)
        title = f"{package} {version_of(package)}"
        rows += [
            f"| {title} | {each.feature} | {'no' if each.error else 'yes'} |" for each in found
        ]
    return "\n".join(rows)


def main() -> None:
    url, model = sys.argv[1:3]
    installed = [name for name in script_names() if version_of(package_of(name))]
    results = {name: run_script(name, url, model) for name in installed}
    print(table(results))
    for name in set(script_names()) - set(installed):
        print(f"not installed: {package_of(name)}", file=sys.stderr)
    errors = [f"{name}, {each.feature}:\n{each.error}"
              for name, found in results.items() for each in found if each.error]  # fmt: skip
    print(*errors, sep="\n", file=sys.stderr)
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
