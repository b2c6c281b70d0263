"""POST /v1/score_choices: which of several continuations of a prompt is the likeliest."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, WithJsonSchema, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel, TokenLogprobs
from shoal.server.api.generation.number_types import Int
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.params import check_prompt_chars, off_loop
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.serialize import float32_value
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.scoring.fields import (
    ScoringFields,
    ScoringRenderer,
    scoring_task,
    scoring_usage,
)
from shoal.server.body import parse, read_json
from shoal.server.context import RequestContext
from shoal.server.json import dumps
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

TextOrIds = Annotated[
    str | list[Int],
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
    ),
]


class ScoreChoicesRequest(ScoringFields):
    """A prompt and what might follow it."""

    prompt: TextOrIds
    choices: list[TextOrIds] = Field(min_length=1, description="Texts, or lists of token ids.")
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

    def check_limits(self, settings: Settings) -> None:
        if len(self.choices) > settings.max_batch_prompts:
            raise InvalidRequest(
                f"choices may hold at most {settings.max_batch_prompts} entries", param="choices"
            )


@router.post(
    "/v1/score_choices",
    **json_docs(ScoreChoicesRequest, "Scoring", (400, 404, 429, 503), example=EXAMPLE),
)
async def score_choices(request: Request) -> GenerationResponse:
    """The log-probability of each choice after the prompt, which is computed once. `rank` 1 is the
    likeliest; `is_greedy`: would greedy decoding write exactly this?"""
    fields = parse(ScoreChoicesRequest, await read_json(request))
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
    if isinstance(request.prompt, list):
        check_token_ids(request.prompt, loaded, param="prompt")
        context_ids = start_prompt(model, request.prompt, param="prompt")
        wholes = [_joined_ids(context_ids, choice, loaded) for choice in request.choices]
    else:
        context_ids, wholes = await _encoded(request, request.prompt, model, loaded)
    prompts = tuple(
        Prompt(whole, logprobs_start=min(len(context_ids), len(whole) - 1)) for whole in wholes
    )
    fit_max_tokens(loaded, prompts, 0, param="prompt")
    return scoring_task(request, prompts, model, context, settings, num_top=1)


async def _encoded(
    request: ScoreChoicesRequest, text: str, model: TextModel, loaded: LoadedModel
) -> tuple[list[int], list[list[int]]]:
    """The prompt's ids, and the prompt with each choice behind it. A text is tokenized as a whole,
    as a reader would; spaces at the end of the prompt belong to the choices."""
    prompt = text.rstrip(" ")
    spaces = text[len(prompt) :]

    async def encode(text: str) -> list[int]:
        check_prompt_chars(len(text), loaded, param="prompt")
        return await off_loop(
            len(text),
            lambda: model.tokenizer.encode(text, add_special_tokens=request.add_special_tokens),
        )

    start = start_prompt(model, [], param="prompt") if not prompt else []
    context_ids = start or await encode(prompt)
    wholes = []
    for choice in request.choices:
        if isinstance(choice, str):
            wholes.append(start + await encode(prompt + spaces + choice))
        else:
            wholes.append(_joined_ids(context_ids, choice, loaded))
    return context_ids, wholes


def _joined_ids(context_ids: list[int], choice: str | list[int], loaded: LoadedModel) -> list[int]:
    assert not isinstance(choice, str), "the schema refuses texts after token ids"
    check_token_ids(choice, loaded, param="choices")
    return context_ids + choice


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
