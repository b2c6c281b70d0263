"""Builds and runs the container image without a container engine: buildah in a chroot, on a Debian
made by debootstrap. Everything lives in one scratch folder. Knows nothing of what is tested.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["buildah", "debootstrap"]

# What Debian's slim images leave out of a fresh system.
SLIM_WITHOUT = [
    *("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*"),
    *("usr/share/doc/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/info/*"),
]

# What `docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges` does,
# in namespaces of our own.
CONFINED = """set -e
root=$1; workdir=$2; user=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups \
    --bounding-set=-all --inh-caps=-all --no-new-privs env --chdir="$workdir" "$@"
"""


class Unavailable(Exception):
    """This machine cannot build an image; says why."""


def find_tools() -> None:
    """See that the tools are there, from Debian's packages if need be. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("building an image here needs root")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing and not shutil.which("apt-get"):
        raise Unavailable(f"{' and '.join(missing)} not installed")
    if missing:
        install = "apt-get -qq update && apt-get -qq install --no-install-recommends --yes "
        done = subprocess.run(install + " ".join(missing), shell=True, capture_output=True)
        if done.returncode != 0:
            raise Unavailable(f"{' and '.join(missing)} not installed and cannot be")


class Image:
    """One built image in its own store, unpacked once for looking inside and running."""

    def __init__(self, scratch: Path, name: str = "shoal") -> None:
        self._scratch = scratch
        self._name = name
        self._buildah = ["buildah", "--root", str(scratch / "store")]
        self._buildah += ["--runroot", str(scratch / "run"), "--storage-driver", "vfs"]

    def build(self) -> None:
        """The base from Debian's packages, then the Dockerfile on it. Raises Unavailable."""
        base = self._scratch / "base"
        include = "--include=python3,python3-venv,ca-certificates"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", include, "bookworm", str(base)],
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Unavailable(f"debootstrap: {made.stdout.strip().splitlines()[-1:]}")
        for place in SLIM_WITHOUT:
            for path in base.glob(place):
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()
        (self._scratch / "Dockerfile").write_text("FROM scratch\nADD base /\n")
        self._build("base", self._scratch)
        shutil.rmtree(base)
        self._build_ours()

    def with_models(self, models: str) -> "Image":
        """Another image on the same base, with these models of the catalogue inside."""
        other = Image(self._scratch, "with-models")
        other._build_ours(f"--build-arg=MODELS={models}")
        return other

    def _build_ours(self, *options: str) -> None:
        base = "--build-arg=BASE_IMAGE=localhost/base"
        self._build(self._name, ROOT, base, *options, *self._pip_mounts())
        self.run_buildah("from", "--name", f"{self._name}-unpacked", f"localhost/{self._name}")

    def _build(self, name: str, context: Path, *options: str) -> None:
        self.run_buildah(
            *("build", "--isolation", "chroot", "--format", "docker", "--layers=false"),
            *("--tag", f"localhost/{name}", *options, str(context)),
        )

    def _pip_mounts(self) -> Iterator[str]:
        """This machine's pip settings and the folders they name, for the time of the build."""
        listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
        settings: dict[str, list[str]] = {}
        for key, value in re.findall(r"^\S+?\.([\w-]+)=(.*)$", listed, re.M):
            settings[key] = ast.literal_eval(value).split()
        lines = [f"{key} = {' '.join(words)}" for key, words in settings.items()]
        (self._scratch / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        yield f"--volume={self._scratch / 'pip.conf'}:/etc/pip.conf:ro"

        words = [word for words in settings.values() for word in words]
        paths = [Path(word.removeprefix("file://")) for word in words]
        local = [path for path in paths if path.is_absolute() and path.exists()]
        # An index has its files beside it; a certificate's folder is mounted whole.
        beside = {
            path.parent if path.is_file() or path.name == "simple" else path for path in local
        }
        for folder in sorted(beside):
            yield f"--volume={folder}:{folder}:ro"

    def run_buildah(self, *arguments: str) -> str:
        """Standard output of buildah; its error output stands in the exception."""
        done = subprocess.run([*self._buildah, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(
                f"buildah {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return done.stdout.strip()

    def config(self) -> dict:
        """What the image says about running it: User, Env, Entrypoint, Cmd, Healthcheck."""
        text = self.run_buildah("inspect", "--type", "image", f"localhost/{self._name}")
        return json.loads(text)["Docker"]["config"]

    def folder(self) -> Path:
        """The file system of the image."""
        return Path(self.run_buildah("mount", f"{self._name}-unpacked"))

    def confined(self, command: list[str], **variables: str) -> list[str]:
        """The command line that runs a command of the image with nothing it does not need."""
        config = self.config()
        user, _ = config["User"].split(":")
        env = [*config["Env"], *(f"{name}={value}" for name, value in variables.items())]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        shell = [*namespaces, "bash", "-c", CONFINED, "confined"]
        place = [str(self.folder()), config["WorkingDir"], user]
        return [*shell, *place, "--ignore-environment", "HOME=/tmp", *env, *command]

    def remove(self) -> None:
        """Take down what buildah holds, so that the scratch folder can be deleted."""
        self.run_buildah("rm", "--all")


@contextmanager
def built_image(scratch: Path) -> Iterator[Image]:
    """The image while it exists. Raises Unavailable where it cannot be built."""
    find_tools()
    image = Image(scratch)
    try:
        image.build()
        yield image
    finally:
        image.remove()
