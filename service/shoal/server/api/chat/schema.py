"""Fields of a chat request, and their conversion to a GenerationTask."""

from typing import Any, Self

import msgspec
from pydantic import Field, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import OutputParams
from shoal.server.api.chat.answer import plan_answer
from shoal.server.api.chat.messages import ChatPrompt, chat_prompt
from shoal.server.api.generation.beam_fields import beam_params
from shoal.server.api.generation.fields import GenerationFields, Int
from shoal.server.api.generation.params import sampling_params, stop_params, truncated
from shoal.server.api.generation.sampler_fields import with_samplers
from shoal.server.api.generation.trace import trace_alternatives
from shoal.server.context import RequestContext
from shoal.text.task import GenerationTask, fit_max_tokens
from shoal.text.text_model import TextModel

# OpenAI fields that are not supported, with the values that have no effect and are accepted.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto", {}),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "prediction": (),
    "modalities": (["text"],),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


class ChatRequest(ChatPrompt, GenerationFields):
    """Body of a chat request."""

    max_tokens: Int | None = Field(None, ge=1, description="Default: the room left.")
    max_completion_tokens: Int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: Int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise InvalidRequest(
                "max_tokens and max_completion_tokens differ; send one", param="max_tokens"
            )
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        return self

    def extra_fields(self) -> list[tuple[str, Any]]:
        extras = super().extra_fields() + self.extra_tool_fields()
        for message in self.messages:
            nested = (message.model_extra or {}).items()
            extras += [(f"messages.{name}", value) for name, value in nested]
        return extras

    def neutral_values(self) -> dict[str, tuple[Any, ...]]:
        return {**super().neutral_values(), **_NEUTRAL}

    def check_limits(self, settings: Settings) -> None:
        super().check_limits(settings)
        if self.top_logprobs > settings.max_logprobs:
            raise InvalidRequest(
                f"top_logprobs must be between 0 and {settings.max_logprobs}; "
                f"got {self.top_logprobs}",
                param="top_logprobs",
            )


async def make_task(
    request: ChatRequest,
    model: TextModel,
    loaded: LoadedModel,
    context: RequestContext,
    settings: Settings,
) -> GenerationTask:
    """Renders the template, tokenizes and checks. Raises InvalidRequest."""
    requested = request.max_completion_tokens or request.max_tokens
    prompt = await chat_prompt(request, model, loaded)
    prompts = truncated((prompt,), request, loaded, requested or 1)
    max_tokens = fit_max_tokens(loaded, prompts, requested, param="messages")
    answer = await plan_answer(
        request,
        model,
        prompt.text or "",
        request.grammar_spec(),
        copy_text=_last_text(request),
        skip_special_tokens=request.skip_special_tokens,
    )
    sampling = await with_samplers(sampling_params(request, model, loaded), request, model, loaded)
    if answer.grammar is not None:
        sampling = msgspec.structs.replace(sampling, **answer.grammar._asdict())
    output = OutputParams(
        logprobs=request.top_logprobs if request.logprobs else None,
        progress=request.wants_progress,
        trace=trace_alternatives(request, request.top_logprobs, max_tokens * request.n, settings),
    )
    return GenerationTask(
        request_id=context.request_id,
        model=model,
        prompts=prompts,
        sampling=sampling,
        stop=stop_params(request, model, loaded, max_tokens, settings.request_timeout),
        output=output,
        beam=beam_params(request, request.n, sampling, output),
        n=request.n,
        best_of=request.n,
        stop_strings=request.stop,
        include_stop=request.include_stop_str_in_output,
        skip_special_tokens=request.skip_special_tokens,
        use_prefix_cache=request.cache_prompt,
        make_parser=answer.make_parser,
        shown_tokens=answer.shown_tokens,
        make_counter=answer.make_counter,
    )


def _last_text(request: ChatRequest) -> str | None:
    """The user's, which a string with x-copy comes from."""
    texts = (message.content for message in reversed(request.messages) if message.role == "user")
    return next(texts, None)
