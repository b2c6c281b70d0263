"""`shoal serve`: builds a flag for every setting from the settings class, so that names, defaults
and descriptions are defined once. This imports pydantic, so `cli` does it only when needed.
"""

from __future__ import annotations

import difflib
import inspect
import socket
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from shoal.config import Settings

SUMMARY = "Start the server."
DESCRIPTION = f"""{SUMMARY}

Every setting can stand in a TOML file (./shoal.toml or --config), in the environment as
SHOAL_<NAME>, or here as a flag; later ones win. Names are the same everywhere.

Keys are no flags, which every user of the machine can see: they come from --keys-file, or from
api_keys and admin_keys in the file or environment, each KEY, NAME:KEY or NAME:sha256:HEX."""


def make_command() -> Callable[..., None]:
    """The function typer registers: one string parameter per setting, validated by Settings."""
    from shoal.config import Settings

    def serve(paths: list[str] | None = None, config: Path | None = None, **flags: Any) -> None:
        if paths:
            flags["models"] = [*paths, *(flags["models"] or ())]
        _refuse_secrets(flags)
        run_server(config, {name: value for name, value in flags.items() if value is not None})

    parameters = [_parameter("paths", list[str] | None, _paths_argument())]
    parameters += [_parameter("config", Path | None, _config_option())]
    parameters += [_setting_parameter(name, field) for name, field in Settings.model_fields.items()]
    serve.__doc__ = DESCRIPTION
    serve.__annotations__ = {item.name: item.annotation for item in parameters}
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return serve


def run_server(config: Path | None, flags: dict[str, Any]) -> None:
    """Check the settings, then serve until stopped."""
    serve_until_stopped(checked_settings(config, flags))


def serve_until_stopped(settings: Settings, listener: socket.socket | None = None) -> NoReturn:
    """Serves, on a socket that listens already or on the port of the settings, and ends the command
    with the exit code of the server."""
    from shoal.errors import ModelFolderError, ShoalError
    from shoal.server.serve import EXIT_ENGINE_FAILED, run

    try:
        exit_code = run(settings, listener)
    except ModelFolderError as error:  # the same code wherever the fault of a model is found
        fail(error.message, EXIT_ENGINE_FAILED)
    except ShoalError as error:
        fail(error.message, 2)
    except KeyboardInterrupt:
        exit_code = 130
    raise typer.Exit(exit_code)


def _refuse_secrets(flags: dict[str, Any]) -> None:
    from shoal.config import SECRETS

    for name in sorted(SECRETS):
        if flags[name]:
            fail(
                f"{flag_name(name)}: every user of this machine can see a command's arguments: "
                f"set SHOAL_{name.upper()} or {name} in the settings file, or use --keys-file",
                2,
            )


def checked_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Settings from all sources, or one line per problem and exit code 2."""
    import tomllib

    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from shoal.config import load_settings
    from shoal.errors import ConfigError

    try:
        return load_settings(config, **flags)
    except ValidationError as error:
        for line in problems(error, flags):
            print(f"shoal: {line}", file=sys.stderr)
        raise typer.Exit(2) from error
    except ConfigError as error:
        fail(error.message, 2)
    except (tomllib.TOMLDecodeError, SettingsError, UnicodeDecodeError, RecursionError) as error:
        fail(f"{config or 'shoal.toml'}: {error}", 2)


def problems(error: ValidationError, flags: dict[str, Any]) -> list[str]:
    """Describes each problem in one line: source of the value, what is expected, the value."""
    from shoal.config import SECRETS

    lines = []
    for item in error.errors(include_url=False, include_context=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            lines.append(f"{_unknown_setting(name)}")
        elif not name:
            lines.append(message)
        else:
            where = flag_name(name) if name in flags else f"{name} (file or SHOAL_{name.upper()})"
            shown = "" if name in SECRETS else f"; got {str(item['input'])[:100]!r}"
            lines.append(f"{where}: {message[:1].lower()}{message[1:]}{shown}")
    return lines


def flag_name(setting: str) -> str:
    """The flag of a setting; list settings have a repeatable singular flag."""
    from shoal.config import Settings

    name = setting
    if _is_list(Settings.model_fields[setting].annotation):
        name = setting.removesuffix("s")
    return "--" + name.replace("_", "-")


def _unknown_setting(name: str) -> str:
    from shoal.config import Settings

    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"setting {name!r} is not known{hint}"


def _paths_argument() -> Any:
    return typer.Argument(
        metavar="[PATH]...", help="Models to serve, the same as --model.", show_default=False
    )


def _config_option() -> Any:
    return typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file with settings. Default: ./shoal.toml where it exists",
        show_default=False,
    )


def _setting_parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    from shoal.config import SECRETS

    flag = flag_name(name)
    help_text = " ".join(filter(None, (field.description, _range(field), _default(field))))
    if field.annotation is bool:
        kind: Any = bool | None
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text, show_default=False)
    else:
        kind = list[str] | None if _is_list(field.annotation) else str | None
        option = typer.Option(
            flag,
            metavar=_metavar(field),
            help=help_text,
            show_default=False,
            hidden=name in SECRETS,
        )
    return _parameter(name, kind, option)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation: Any = Annotated[kind, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list


def _metavar(field: FieldInfo) -> str:
    """The value placeholder in the help: TEXT, INT or the choices."""
    kind = field.annotation
    if get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    if get_origin(kind) is Literal:
        return "|".join(str(choice) for choice in get_args(kind))
    names = {int: "INT", float: "NUMBER", Path: "PATH"}
    return names.get(kind, "TEXT") if isinstance(kind, type) else "TEXT"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=False)
    if default is None or _is_list(field.annotation):
        return ""
    shown = (
        {True: "on", False: "off"}.get(default, default) if field.annotation is bool else default
    )
    return f"Default: {shown}"


def _range(field: FieldInfo) -> str:
    """Limits from the field's constraints, as `(0 to 65535)`."""
    low = high = None
    exclusive = False
    for rule in field.metadata:
        low = getattr(rule, "ge", low)
        if (above := getattr(rule, "gt", None)) is not None:
            low, exclusive = above, True
        high = getattr(rule, "le", high)
    if low is None:
        return ""
    if high is None:
        return f"(more than {low:g})" if exclusive else f"({low:g} or more)"
    return f"({low:g} to {high:g})"
