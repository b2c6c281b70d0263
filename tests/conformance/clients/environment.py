"""The clients' environment: `python -m tests.conformance.clients.environment` makes it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]


def clients_python() -> Path:
    """Its Python: of SHOAL_CLIENTS_PYTHON, else of .cache/clients."""
    given = os.environ.get("SHOAL_CLIENTS_PYTHON")
    return Path(given) if given else ROOT / ".cache" / "clients" / "bin" / "python"


def main() -> None:
    python = clients_python()
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
    requirements = FOLDER / "requirements.txt"
    command = [python, "-m", "pip", "install", "-q", "--upgrade", "-r", requirements]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
