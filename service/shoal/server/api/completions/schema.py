"""Fields of a completions request, and their conversion to a GenerationTask."""

from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest, NotSupportedByModel
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import OutputParams
from shoal.server.api.generation.beam_fields import beam_params
from shoal.server.api.generation.fields import GenerationFields, Int
from shoal.server.api.generation.number_types import id_list
from shoal.server.api.generation.params import (
    check_sizes,
    sampling_params,
    stop_params,
    truncated,
)
from shoal.server.api.generation.sampler_fields import with_samplers
from shoal.server.api.generation.structured import with_grammar
from shoal.server.api.generation.trace import trace_alternatives
from shoal.server.context import RequestContext
from shoal.server.errors import FieldProblem
from shoal.server.off_loop import off_loop
from shoal.text.task import GenerationTask, Prompt, check_token_ids, fit_max_tokens, start_prompt
from shoal.text.text_model import TextModel

DEFAULT_MAX_TOKENS = 16


def prompt_list(value: Any) -> list[str] | list[list[int]]:
    """Several prompts, whichever way they or the only one were written. Raises FieldProblem."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise FieldProblem("must be a string, or a non-empty array of strings or token ids")
    kinds = set(map(type, value))
    if kinds == {str}:
        return value
    if (ids := id_list(value)) is not None:
        return [ids]
    if kinds == {list}:
        lists = [id_list(item) for item in value]
        if [] in lists:
            raise FieldProblem(f"holds an empty array, at {lists.index([])}")
        if None not in lists:
            return [ids for ids in lists if ids]
    raise FieldProblem("must hold only strings, only token ids, or only arrays of token ids")


PromptItems = Annotated[
    list[str] | list[list[int]],
    PlainValidator(prompt_list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ],
            "description": "One text, several texts, token ids, or several lists of token ids.",
        }
    ),
]


class CompletionRequest(GenerationFields):
    """Body of a completions request."""

    prompt: PromptItems
    max_tokens: Int | None = Field(None, ge=0, description="Default 16; 0 = score only.")
    max_completion_tokens: Int | None = Field(None, ge=0, description="Alias of max_tokens.")
    best_of: Int | None = Field(None, ge=1)
    logprobs: Int | None = Field(None, ge=0)
    prompt_logprobs: Int | None = Field(None, ge=0)
    echo: bool = False
    add_special_tokens: bool = True
    suffix: str | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _reject_boolean(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise FieldProblem(
                "must be an integer here", hint="chat completions take true and top_logprobs"
            )
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        aliases = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(aliases) > 1:
            raise InvalidRequest(
                "max_tokens and max_completion_tokens differ; send one", param="max_tokens"
            )
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequest(
                f"best_of must be at least n ({self.n}); got {self.best_of}", param="best_of"
            )
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise InvalidRequest("best_of above n cannot be streamed", param="best_of")
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest("prompt_logprobs cannot be streamed", param="prompt_logprobs")
        return self

    @property
    def candidates(self) -> int:
        return self.best_of or self.n

    @property
    def num_sequences(self) -> int:
        return len(self.prompt) * self.candidates

    @property
    def wanted_tokens(self) -> int | None:
        given = [tokens for tokens in (self.max_tokens, self.max_completion_tokens) if tokens
                 is not None]  # fmt: skip
        return given[0] if given else DEFAULT_MAX_TOKENS

    def check_limits(self, settings: Settings) -> None:
        super().check_limits(settings)
        limits = (
            ("best_of", self.candidates, 1, settings.max_n),
            ("logprobs", self.logprobs or 0, 0, settings.max_logprobs),
            ("prompt_logprobs", self.prompt_logprobs or 0, 0, settings.max_logprobs),
        )
        for name, value, low, high in limits:
            if value > high:
                raise InvalidRequest(
                    f"{name} must be between {low} and {high}; got {value}", param=name
                )
        if len(self.prompt) > settings.max_batch_prompts:
            raise InvalidRequest(
                f"prompt may hold at most {settings.max_batch_prompts} prompts", param="prompt"
            )
        if self.num_sequences > settings.max_sequences:
            raise InvalidRequest(
                f"prompts x best_of may be at most {settings.max_sequences}; "
                f"got {self.num_sequences}",
                param="n",
            )


async def make_task(
    request: CompletionRequest,
    model: TextModel,
    loaded: LoadedModel,
    context: RequestContext,
    settings: Settings,
) -> GenerationTask:
    """Tokenizes, and validates against the model. Raises InvalidRequest."""
    if request.suffix:
        raise NotSupportedByModel(f"model {model.name} cannot fill in a suffix", param="suffix")
    wanted = request.wanted_tokens
    prompts = truncated(
        await _prompts(request, model, loaded), request, loaded, 1 if wanted is None else wanted
    )
    max_tokens = fit_max_tokens(loaded, prompts, wanted, param="prompt")
    is_ranked = request.candidates > request.n and not request.use_beam_search
    sampling = await with_grammar(
        await with_samplers(sampling_params(request, model, loaded), request, model, loaded),
        request,
        model,
        lambda: _copy_text(prompts, model),
    )
    output = OutputParams(
        logprobs=request.logprobs or 0 if is_ranked else request.logprobs,
        prompt_logprobs=_prompt_logprobs(request),
        progress=request.wants_progress,
        trace=trace_alternatives(
            request, request.logprobs, max_tokens * request.num_sequences, settings
        ),
    )
    return GenerationTask(
        request_id=context.request_id,
        model=model,
        prompts=prompts,
        sampling=sampling,
        stop=stop_params(request, model, loaded, max_tokens, settings.request_timeout),
        output=output,
        n=request.n,
        best_of=request.candidates if is_ranked else request.n,
        beam=beam_params(request, request.candidates, sampling, output),
        stop_strings=request.stop,
        include_stop=request.include_stop_str_in_output,
        skip_special_tokens=request.skip_special_tokens,
        echo=request.echo,
        use_prefix_cache=request.cache_prompt,
    )


async def _prompts(
    request: CompletionRequest, model: TextModel, loaded: LoadedModel
) -> tuple[Prompt, ...]:
    """Raises InvalidRequest, of what cannot fit before anything is tokenized."""
    prompts: list[str | list[int]] = [*request.prompt]
    if request.truncate_prompt_tokens is None:
        check_sizes(prompts, loaded, param="prompt")
    return await off_loop(
        sum(map(len, prompts)),
        lambda: tuple(_prompt(item, request, model, loaded) for item in prompts),
    )


def _prompt(
    item: str | list[int], request: CompletionRequest, model: TextModel, loaded: LoadedModel
) -> Prompt:
    if isinstance(item, str):
        token_ids = model.tokenizer.encode(item, add_special_tokens=request.add_special_tokens)
        return Prompt(start_prompt(model, token_ids, param="prompt"), item)
    check_token_ids(item, loaded, param="prompt")
    return Prompt(item)


def _copy_text(prompts: tuple[Prompt, ...], model: TextModel) -> str | None:
    """What a string with x-copy comes from: of several prompts none."""
    if len(prompts) > 1:
        return None
    return prompts[0].text or model.tokenizer.decode(prompts[0].token_ids)


def _prompt_logprobs(request: CompletionRequest) -> int | None:
    """With echo, logprobs also applies to the prompt."""
    if request.prompt_logprobs is not None:
        return max(request.prompt_logprobs, request.logprobs or 0 if request.echo else 0)
    return request.logprobs if request.echo else None
