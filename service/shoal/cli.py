"""The `shoal` command: registers the sub-commands of `commands/` and nothing else.

Modules of `commands/` import little, so `shoal --help` is fast. The flags of `serve` need the
settings class, so they are built only when the sub-command is `serve`.
"""

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

NEEDED = (
    "fastapi", "fastapi_offline", "starlette", "uvicorn", "httptools", "pydantic_settings",
    "orjson", "msgspec", "numpy", "safetensors", "gguf", "tokenizers", "jinja2",
    "prometheus_client", "typer", "rich", "psutil", "llguidance",
)  # fmt: skip
"""Modules of the `server` extra, without which the commands would half work."""


def main() -> None:
    """Entry point. Without the `server` extra it prints how to install it and exits with 1."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"shoal: the commands need more packages ({', '.join(missing[:3])}"
            f"{', ...' if missing[3:] else ''}): pip install 'shoal[server]'",
            file=sys.stderr,
        )
        sys.exit(1)
    is_completion = "_SHOAL_COMPLETE" in os.environ  # by a shell, of any command
    build_app(sys.argv[1:2] == ["serve"] or is_completion)(prog_name="shoal")


def build_app(with_serve_flags: bool = True) -> "typer.Typer":
    """Builds the command line."""
    import typer

    from shoal.commands import serve
    from shoal.commands.bench.command import bench
    from shoal.commands.chat import chat
    from shoal.commands.check import check
    from shoal.commands.complete import complete
    from shoal.commands.doctor import doctor
    from shoal.commands.keys import keys
    from shoal.commands.models import models
    from shoal.commands.ps import ps
    from shoal.commands.pull import pull
    from shoal.commands.run import run
    from shoal.commands.top import top
    from shoal.commands.train import train

    app = typer.Typer(
        help="Shoal: small language models, moving together.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from shoal import __version__

            print(f"shoal {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Options that come before a sub-command."""

    if with_serve_flags:
        app.command("serve", help=serve.DESCRIPTION)(serve.make_command())
    else:
        app.command("serve", help=serve.DESCRIPTION)(lambda: None)
    for command in (run, chat, complete, ps, top, bench, models, pull, check, doctor, train):
        app.command()(command)
    app.add_typer(keys, name="keys")
    return app
