"""A copy of deploy/ with an environment whose Python only notes how it is called."""

import os
import pty
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
"-c import shoal.kernels._native") exit {imported};;
*"install "*) echo "installing $*" >&2; sleep {install_s};;
esac
case "$*" in *{fails_at}*) echo "a broken wheel" >&2; exit 1;; esac
"""
COMPILER = "#!/bin/sh\necho 'c++ {version}'\n"


class Checkout:
    """The copy; `tools` holds all programs that its scripts find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.tools = folder / "tools"  # instead of this machine's compilers
        self.tools.mkdir()
        for name in ("bash", "cat", "dirname", "grep", "head", "rm", "sleep"):
            (self.tools / name).symlink_to(shutil.which(name) or name)
        self.venv = folder / "venv"
        (self.venv / "bin").mkdir(parents=True)
        self.python(imported=1)

    def python(self, imported: int, fails_at: str = "nowhere", install_s: float = 0) -> None:
        """`imported`: exit code of importing the native library. `fails_at`: words in the arguments
        of a call that fails."""
        script = PYTHON.format(
            log=self.folder / "calls", imported=imported, fails_at=fails_at, install_s=install_s
        )
        self._write(self.venv / "bin" / "python", script)

    def compiler(self, version: int) -> None:
        self._write(self.tools / "c++", COMPILER.format(version=version))

    def run(self, *command: str, check: bool = True, **variables: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        done = subprocess.run(
            command, cwd=self.folder, env={"PATH": str(self.tools), **variables},
            capture_output=True, text=True, timeout=20, check=check,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def run_on_terminal(self, *command: str) -> str:
        """All that a terminal is sent."""
        ours, theirs = pty.openpty()
        environment = {"PATH": str(self.tools), "TERM": "xterm"}
        with subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            seen = b""
            while True:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # all have closed it
                    break
        os.close(ours)
        assert process.returncode == 0
        return seen.decode()

    SET_UP = ("deploy/setup.sh", "venv/bin/python", "machine")

    def set_up(self) -> str:
        said = self.run(*self.SET_UP)[1]
        (self.venv / "server.stamp").touch()
        return " ".join(said.split())

    def start(self) -> str:
        return " ".join(self.run("deploy/native-again.sh", "venv")[1].split())

    @property
    def is_set_up(self) -> bool:
        return (self.venv / "server.stamp").exists()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
