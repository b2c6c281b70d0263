"""POST /v1/score_choices: which of several continuations of a prompt is the likeliest."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel, TokenLogprobs
from shoal.protocol.params import OutputParams
from shoal.server.api.generation.number_types import at_most, id_list
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.params import check_prompt_chars, check_sizes
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.serialize import float32_value
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.scoring.fields import (
    ScoringFields,
    ScoringRenderer,
    scoring_task,
    scoring_usage,
)
from shoal.server.body import read_request
from shoal.server.context import RequestContext
from shoal.server.errors import FieldProblem
from shoal.server.json import dumps
from shoal.server.off_loop import off_loop
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.task import (
    GenerationTask,
    Prompt,
    check_token_ids,
    fit_max_tokens,
    start_prompt,
)
from shoal.text.text_model import TextModel

router = APIRouter()

EXAMPLE = {"prompt": "The sky is", "choices": [" blue", " green"]}


def _text_or_ids(value: Any) -> str | list[int]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and (ids := id_list(value)) is not None:
        return ids
    raise FieldProblem("must be a string or an array of integers")


TextOrIds = Annotated[
    str | list[int],
    PlainValidator(_text_or_ids),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
    ),
]


class ScoreChoicesRequest(ScoringFields):
    """A prompt and what might follow it."""

    prompt: TextOrIds
    choices: Annotated[list[TextOrIds], at_most("max_batch_prompts")] = Field(
        min_length=1, fail_fast=True, description="Texts, or lists of token ids."
    )
    normalize: Literal["none", "tokens", "bytes"] = Field(
        "none", description="Divide the log-probability of a choice by its tokens or bytes."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if any(len(choice) == 0 for choice in self.choices):
            raise InvalidRequest("choices may not be empty", param="choices")
        if isinstance(self.prompt, list) and any(isinstance(c, str) for c in self.choices):
            raise InvalidRequest(
                "choices must be lists of token ids, as the prompt is", param="choices"
            )
        return self


@router.post(
    "/v1/score_choices",
    **json_docs(ScoreChoicesRequest, "Scoring", (400, 404, 429, 503), example=EXAMPLE),
)
async def score_choices(request: Request) -> GenerationResponse:
    """The log-probability of each choice after the prompt, which is computed once. `rank` 1 is the
    likeliest; `is_greedy`: would greedy decoding write exactly this?"""
    fields = await read_request(request, ScoreChoicesRequest)
    return await start_generation(
        request,
        fields,
        num_sequences=len(fields.choices),
        make_task=make_task,
        make_renderer=lambda generation, _: ChoicesRenderer(generation.task, fields.normalize),
    )


async def make_task(
    request: ScoreChoicesRequest,
    model: TextModel,
    loaded: LoadedModel,
    context: RequestContext,
    settings: Settings,
) -> GenerationTask:
    """Tokenizes, and validates against the model. Raises InvalidRequest."""
    check_sizes((request.prompt, *request.choices), loaded, param="prompt")
    # Each choice is tokenized, or copied, together with the prompt.
    longest = len(request.prompt) * len(request.choices) + sum(map(len, request.choices))
    context_ids, wholes = await off_loop(longest, lambda: _wholes(request, model, loaded))
    prompts = tuple(
        Prompt(whole, logprobs_start=min(len(context_ids), len(whole) - 1)) for whole in wholes
    )
    return scoring_task(request, prompts, model, context, settings, OutputParams(prompt_logprobs=1))


def _wholes(
    request: ScoreChoicesRequest, model: TextModel, loaded: LoadedModel
) -> tuple[list[int], list[list[int]]]:
    """The prompt's ids, and the prompt with each choice behind it. A text is tokenized as a whole,
    as a reader would; spaces at the end of the prompt belong to the choices. Raises InvalidRequest
    at the first that does not fit."""

    def encode(text: str) -> list[int]:
        check_prompt_chars(len(text), loaded, param="prompt")
        return model.tokenizer.encode(text, add_special_tokens=request.add_special_tokens)

    prompt, spaces, start = request.prompt, "", list[int]()
    if isinstance(prompt, list):
        check_token_ids(prompt, loaded, param="prompt")
        context_ids = start_prompt(model, prompt, param="prompt")
    else:
        text, prompt = prompt, prompt.rstrip(" ")
        spaces = text[len(prompt) :]
        start = start_prompt(model, [], param="prompt") if not prompt else []
        context_ids = start or encode(prompt)
    wholes: list[list[int]] = []
    for choice in request.choices:
        if isinstance(choice, list):
            check_token_ids(choice, loaded, param="choices")
            wholes.append(context_ids + choice)
        else:
            wholes.append(start + encode(f"{prompt}{spaces}{choice}"))
        fit_max_tokens(loaded, (Prompt(wholes[-1]),), 0, param="prompt")
    return context_ids, wholes


class ChoicesRenderer(ScoringRenderer):
    """Renders the /v1/score_choices response of one request."""

    def __init__(self, task: GenerationTask, normalize: str) -> None:
        self._task = task
        self._normalize = normalize

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        choices = [self._choice(delta) for delta in deltas]
        best_first = sorted(range(len(choices)), key=lambda i: -choices[i]["logprob"])
        for rank, index in enumerate(best_first, 1):
            choices[index]["rank"] = rank
        answer = {
            "object": "list",
            "model": self._task.model.name,
            "choices": choices,
            "usage": scoring_usage(generation),
        }
        return dumps(answer)

    def _choice(self, delta: Delta) -> dict[str, Any]:
        entries = [entry for entry in delta.prompt_logprobs or [] if entry is not None]
        logprob = sum(entry.logprob for entry in entries) / self._length(entries)
        return {
            "index": delta.index,
            "logprob": float32_value(logprob),
            "tokens": len(entries),
            "is_greedy": all(entry.top_ids[:1] == [entry.token_id] for entry in entries),
            "token_logprobs": [float32_value(entry.logprob) for entry in entries],
        }

    def _length(self, entries: list[TokenLogprobs]) -> int:
        if self._normalize == "none":
            return 1
        if self._normalize == "tokens":
            return len(entries)
        bytes_of = self._task.model.tokenizer.bytes_of
        return max(1, sum(len(bytes_of(entry.token_id)) for entry in entries))
