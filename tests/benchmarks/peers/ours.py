"""Shoal as it is: the server of this repository with its default settings."""

import subprocess
import sys
from pathlib import Path

from .process import Command, Contender
from .shapes import ROOT, Shape, model_folder

SETTINGS = "default settings"
_SERVE = [sys.executable, "-m", "shoal", "serve", "--port", "{port}", "--log-level", "warning"]
_ENVIRONMENT = {"PYTHONPATH": str(ROOT / "service"), "SHOAL_SHUTDOWN_DELAY": "0"}


def contenders() -> list[Contender]:
    """bf16, and int8 where this version of `shoal serve` has it."""
    found = [Contender("Shoal bf16", "shoal", "bf16", _command, settings=SETTINGS)]
    if "--quantize" in _help():
        found.append(Contender("Shoal int8", "shoal", "int8", _int8_command, settings=SETTINGS))
    return found


def command(folder: Path, name: str, *flags: str) -> Command:
    """`shoal serve` for one folder under `name`; the port is filled in at the start."""
    return Command([*_SERVE, "--model", f"{name}={folder}", *flags], _ENVIRONMENT)


def default_models() -> tuple[Command, str]:
    """`shoal serve` as a newcomer starts it, with every model of the repository, and one name."""
    folder = ROOT / "models"
    names = sorted(config.parent.name for config in folder.glob("*/config.json"))
    return Command([*_SERVE, "--models-dir", str(folder)], _ENVIRONMENT), names[0]


def _command(shape: Shape, slots: int) -> Command:
    return command(model_folder(shape), shape.name)


def _int8_command(shape: Shape, slots: int) -> Command:
    return command(model_folder(shape), shape.name, "--quantize", "int8")


def _help() -> str:
    argv = [sys.executable, "-m", "shoal", "serve", "--help"]
    environment = {"PATH": "/usr/bin:/bin", **_ENVIRONMENT, "COLUMNS": "200"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True).stdout
