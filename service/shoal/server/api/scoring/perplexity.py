"""POST /v1/perplexity: how well a model predicts texts, also those longer than its context."""

import math
from typing import Any, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import OutputParams
from shoal.server.api.completions.schema import PromptItems
from shoal.server.api.generation.number_types import Int
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.scoring.fields import (
    ScoringFields,
    ScoringRenderer,
    scoring_task,
    scoring_usage,
)
from shoal.server.body import read_request
from shoal.server.context import RequestContext, context_of
from shoal.server.json import dumps
from shoal.server.off_loop import off_loop
from shoal.server.services import services_of
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.task import GenerationTask, Prompt, check_token_ids
from shoal.text.text_model import TextModel

router = APIRouter()

EXAMPLE = {"input": "Once upon a time there was a fish."}


class PerplexityRequest(ScoringFields):
    """Texts to predict."""

    input: PromptItems
    stride: Int | None = Field(
        None,
        ge=1,
        description="Tokens from one window over a long text to the next, at most the context "
        "length; default half of it. Less is more exact and takes longer.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if any(len(item) == 0 for item in self.input):
            raise InvalidRequest("input may not be empty", param="input")
        return self


@router.post(
    "/v1/perplexity",
    **json_docs(PerplexityRequest, "Scoring", (400, 404, 429, 503), example=EXAMPLE),
)
async def perplexity(request: Request) -> GenerationResponse:
    """Negative log-likelihood (nats), perplexity and bits per byte, of all inputs together and of
    each. The first token of a text has nothing before it and is not scored. A text longer than
    the context is read in windows; each token is scored once, in the first window that has it."""
    fields = await read_request(request, PerplexityRequest)
    services = services_of(request)
    model = services.find_model(fields.model, context_of(request.scope).key)
    loaded = services.find_loaded(model.name)
    windows = await off_loop(
        sum(map(len, fields.input)),
        lambda: _windows_of_all(fields, model, loaded, services.settings),
    )

    async def make_task(
        fields: PerplexityRequest,
        model: TextModel,
        loaded: LoadedModel,
        context: RequestContext,
        settings: Settings,
    ) -> GenerationTask:
        prompts = tuple(window for text in windows for window in text)
        return scoring_task(
            fields, prompts, model, context, settings, OutputParams(prompt_logprobs=0)
        )

    return await start_generation(
        request,
        fields,
        num_sequences=sum(map(len, windows)),
        make_task=make_task,
        make_renderer=lambda generation, _: PerplexityRenderer(
            generation.task, [len(text) for text in windows]
        ),
    )


def _windows_of_all(
    fields: PerplexityRequest, model: TextModel, loaded: LoadedModel, settings: Settings
) -> list[list[Prompt]]:
    """The windows of each input. Raises InvalidRequest."""
    longest = loaded.max_model_len
    stride = max(1, longest // 2) if fields.stride is None else fields.stride
    if stride > longest:
        raise InvalidRequest(
            f"stride must be at most the context length ({longest}); got {stride}", param="stride"
        )
    windows, num_windows = list[list[Prompt]](), 0
    items: list[str | list[int]] = [*fields.input]
    if len(items) > settings.max_sequences:
        raise _too_many_windows(settings)
    for index, item in enumerate(items):
        token_ids = _token_ids(item, fields, model, loaded)
        if len(token_ids) < 2:
            raise InvalidRequest(
                f"input.{index} has one token, and the first is never scored", param="input"
            )
        num_windows += count_windows(len(token_ids), longest, stride)
        if num_windows > settings.max_sequences:
            raise _too_many_windows(settings)
        windows.append(make_windows(token_ids, longest, stride))
    return windows


def _too_many_windows(settings: Settings) -> InvalidRequest:
    return InvalidRequest(
        f"input takes more than {settings.max_sequences} windows; "
        "send less at once or a larger stride",
        param="input",
    )


def _token_ids(
    item: str | list[int], fields: PerplexityRequest, model: TextModel, loaded: LoadedModel
) -> list[int]:
    if isinstance(item, str):
        return model.tokenizer.encode(item, add_special_tokens=fields.add_special_tokens)
    check_token_ids(item, loaded, param="input")
    return item


def count_windows(num_tokens: int, longest: int, stride: int) -> int:
    """How many `make_windows` makes."""
    return 1 + max(0, -(-(num_tokens - longest) // stride))


def make_windows(token_ids: list[int], longest: int, stride: int) -> list[Prompt]:
    """Overlapping pieces of at most `longest` tokens; each reports the tokens that no earlier one
    had. With a stride of `longest` the first token of each piece has nothing before it."""
    windows: list[Prompt] = []
    num_scored = 0
    for start in range(0, len(token_ids), stride):
        end = min(start + longest, len(token_ids))
        windows.append(Prompt(token_ids[start:end], logprobs_start=num_scored - start))
        num_scored = end
        if end == len(token_ids):
            break
    return windows


class PerplexityRenderer(ScoringRenderer):
    """Renders the /v1/perplexity response of one request."""

    def __init__(self, task: GenerationTask, num_windows: list[int]) -> None:
        """`num_windows`: of each input."""
        self._task = task
        self._num_windows = num_windows

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        inputs, first = [], 0
        for num_windows in self._num_windows:
            inputs.append(self._score(deltas[first : first + num_windows]))
            first += num_windows
        answer = {
            "object": "list",
            "model": self._task.model.name,
            **_figures(*(sum(part) for part in zip(*inputs, strict=True))),
            "data": [{"index": index, **_figures(*part)} for index, part in enumerate(inputs)],
            "usage": scoring_usage(generation),
        }
        return dumps(answer)

    def _score(self, deltas: list[Delta]) -> tuple[float, float, float]:
        """(nats, tokens, bytes) of one input. Special tokens have no bytes."""
        tokenizer = self._task.model.tokenizer
        nll = num_tokens = num_bytes = 0.0
        for delta in deltas:
            for entry in delta.prompt_logprobs or []:
                if entry is None:
                    continue
                nll -= entry.logprob
                num_tokens += 1
                if entry.token_id not in tokenizer.special_ids:
                    num_bytes += len(tokenizer.bytes_of(entry.token_id))
        return nll, num_tokens, num_bytes


def _figures(nll: float, num_tokens: float, num_bytes: float) -> dict[str, Any]:
    return {
        "nll": nll,
        "tokens": int(num_tokens),
        "perplexity": _finite_exp(nll / num_tokens),
        "bits_per_byte": nll / math.log(2) / num_bytes if num_bytes else None,
    }


def _finite_exp(value: float) -> float:
    """JSON has no infinity."""
    return math.exp(min(value, 700.0))
