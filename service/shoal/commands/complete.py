"""`shoal complete`: completes one prompt and streams plain text to stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.commands.terminal import ApiKey, BaseUrl, ModelName, connected, fail, pick_model

if TYPE_CHECKING:
    from shoal.client._params import StructuredOutputs


def complete(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from stdin.")],
    model: ModelName = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Most tokens to write.")
    ] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, metavar="T", help="0 = always the likeliest token."),
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, metavar="P")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; repeatable.")
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The text is JSON of this JSON schema."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="The text matches this pattern.")
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Write the prompt first.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Continue a text with a running server and stream the result to stdout."""
    text = sys.stdin.read() if prompt == "-" else prompt
    form = _structured_outputs(json_schema, regex)
    try:
        with connected(base_url, api_key) as client:
            if echo:
                _write(text)
            with client.completions.create(
                text,
                stream=True,
                model=pick_model(client, model),
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                stop=stop or None,
                structured_outputs=form,
            ) as stream:
                for delta in stream.text_deltas():
                    _write(delta)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reading end of the pipe was closed
        sys.stdout = None  # prevents a second error when Python flushes at exit
        raise typer.Exit(0) from None
    except UnicodeEncodeError as error:
        fail(f"this terminal cannot show the text ({error.encoding}): set PYTHONUTF8=1")
    if sys.stdout.isatty():
        _write("\n")


def _structured_outputs(schema_file: Path | None, regex: str | None) -> StructuredOutputs | None:
    if schema_file is not None and regex is not None:
        fail("give --json-schema or --regex, not both", 2)
    if regex is not None:
        return {"regex": regex}
    if schema_file is None:
        return None
    try:
        return {"json": json.loads(schema_file.read_text(encoding="utf-8"))}
    except OSError as error:
        fail(f"cannot read {schema_file}: {error.strerror}", 2)
    except (ValueError, RecursionError) as error:
        fail(f"{schema_file} is not JSON: {error}", 2)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
