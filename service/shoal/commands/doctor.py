"""`shoal doctor`: runs the checks of `checks.py` and prints one line each."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")
    ] = None,
    models_dir: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of models to check.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Model to check; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to try.")] = None,
    port: Annotated[str | None, typer.Option(metavar="N", help="Port to try.")] = None,
    keys_file: Annotated[
        str | None, typer.Option(metavar="PATH", help="Keys file to check.")
    ] = None,
) -> None:
    """Check whether `shoal serve` can run here, and say what to do where it cannot.

    Settings come from the same places as those of `shoal serve`. Exit code 1 when it would refuse
    to start, 2 when the settings themselves are wrong; what is optional does not count.
    """
    from rich.console import Console
    from rich.text import Text

    from shoal.commands.checks import all_checks
    from shoal.commands.serve import checked_settings

    given = {"models_dir": models_dir, "models": model or None, "host": host, "port": port}
    given["keys_file"] = keys_file
    flags = {name: value for name, value in given.items() if value is not None}
    settings = checked_settings(config, flags)
    console = Console(highlight=False, soft_wrap=True)
    broken = False
    for finding in all_checks(settings):
        broken |= finding.essential and not finding.ok
        mark = ("✓", "green") if finding.ok else ("✗", "red" if finding.essential else "yellow")
        line = Text.assemble(mark, " ", (f"{finding.name:<16}", "bold"), " ", finding.found)
        if not finding.ok:
            line.append(f" → {finding.advice}" if finding.advice else "", style="cyan")
            line.append("" if finding.essential else " (optional)", style="dim")
        console.print(line)
    if broken:
        raise typer.Exit(1)
