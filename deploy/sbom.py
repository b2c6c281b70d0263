"""Write what the image holds, as CycloneDX JSON, from the lock files and the models' locks:

    deploy/sbom.py [server torch-cpu] > shoal.cdx.json

The arguments are files of requirements/; without any, what `shoal serve` runs with. The system's
packages below are those of the base image, which has a list of its own.
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)


def packages(lock: Path) -> Iterator[dict[str, Any]]:
    """A component for each pin; of a name with two pins, for old and new Pythons, both."""
    for name, version in PIN.findall(lock.read_text()):
        name = re.sub(r"[-_.]+", "-", name).lower()
        purl = f"pkg:pypi/{name}@{version}"
        yield {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        }  # fmt: skip


def models(folder: Path) -> Iterator[dict[str, Any]]:
    """A component for each model that has a lock, its files inside."""
    for lock in sorted(folder.glob("*/lock.json")):
        files = [
            {
                "type": "file", "name": name,
                "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
            }
            for name, entry in sorted(json.loads(lock.read_text())["files"].items())
        ]  # fmt: skip
        name = lock.parent.name
        yield {
            "type": "machine-learning-model", "bom-ref": f"model:{name}", "name": name,
            "components": files,
        }  # fmt: skip


def bill_of_materials(locks: list[str]) -> dict[str, Any]:
    """The whole document. It is the same for the same files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [part for lock in locks for part in packages(ROOT / "requirements" / f"{lock}.lock")]
    parts += models(ROOT / "models")
    shoal = f"pkg:pypi/{project['name']}@{project['version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": shoal, "name": project["name"],
                "version": project["version"], "purl": shoal,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": parts,
        "dependencies": [{"ref": shoal, "dependsOn": sorted(part["bom-ref"] for part in parts)}],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(bill_of_materials(sys.argv[1:] or ["server"]), indent=1))
