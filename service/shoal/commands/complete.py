"""`shoal complete`: completes one prompt and streams plain text to stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shoal.commands import sampling
from shoal.commands.terminal import (
    ApiKey,
    BaseUrl,
    ModelName,
    connected,
    orderly_end,
    pick_model,
    visible,
)


def complete(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from stdin.")],
    model: ModelName = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Most tokens to write.")
    ] = 256,
    temperature: sampling.Temperature = None,
    top_p: sampling.TopP = None,
    seed: sampling.Seed = None,
    stop: sampling.Stop = None,
    json_schema: sampling.JsonSchema = None,
    regex: sampling.Regex = None,
    echo: Annotated[bool, typer.Option("--echo", help="Write the prompt first.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Continue a text with a running server and stream the result to stdout."""
    text = sys.stdin.read() if prompt == "-" else prompt
    form = sampling.structured_outputs(json_schema, regex)
    with orderly_end(), connected(base_url, api_key) as client:
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
    if sys.stdout.isatty():
        _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
