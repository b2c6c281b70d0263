"""Fields of an embeddings request, and their conversion to a GenerationTask."""

from typing import Literal, Self

from pydantic import Field, model_validator

from shoal.config import Settings
from shoal.errors import ContextLengthExceeded, InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import OutputParams
from shoal.server.api.completions.schema import PromptItems
from shoal.server.api.generation.number_types import Int
from shoal.server.api.generation.params import check_prompt_chars
from shoal.server.api.scoring.fields import ScoringFields, scoring_task
from shoal.server.context import RequestContext
from shoal.server.off_loop import off_loop
from shoal.text.task import GenerationTask, Prompt, check_token_ids
from shoal.text.text_model import TextModel

MAX_INPUTS = 2048
"""Of one request, as in the OpenAI API."""


class EmbeddingsRequest(ScoringFields):
    """Texts to embed, as in the OpenAI API."""

    input: PromptItems
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32 numbers."
    )
    dimensions: Int | None = Field(
        None,
        ge=1,
        description="Only the first so many numbers of each vector, scaled to length 1; for models "
        "that were trained for it.",
    )
    truncate_prompt_tokens: Int | None = Field(
        None,
        ge=-1,
        description="Keep the first so many tokens of each input, special tokens included; -1 = as "
        "many as the model takes.",
    )

    @model_validator(mode="after")
    def _check_input(self) -> Self:
        if len(self.input) > MAX_INPUTS:
            raise InvalidRequest(
                f"input may hold at most {MAX_INPUTS} texts; got {len(self.input)}", param="input"
            )
        for index, item in enumerate(self.input):
            if len(item) == 0:
                name = self.name_of(index)
                raise InvalidRequest(f"{name} is empty", param=name)
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest(
                "truncate_prompt_tokens must be -1 or at least 1; got 0",
                param="truncate_prompt_tokens",
            )
        return self

    def name_of(self, index: int) -> str:
        """What errors call an input."""
        return "input" if len(self.input) == 1 else f"input.{index}"

    def num_places(self, settings: Settings, max_open: int) -> int:
        """Inputs that run at once. `max_open`: sequences that the caller may have in flight; 0 = no
        limit of its own."""
        limits = (len(self.input), settings.max_batch_size, max_open or len(self.input))
        return min(limits)


async def make_task(
    request: EmbeddingsRequest,
    model: TextModel,
    loaded: LoadedModel,
    context: RequestContext,
    settings: Settings,
) -> GenerationTask:
    """Tokenizes, and validates against the model. Raises InvalidRequest."""
    size = loaded.embedding_size or 0
    if request.dimensions is not None and request.dimensions > size:
        raise InvalidRequest(
            f"dimensions must be at most {size}, the size of this model's vectors; "
            f"got {request.dimensions}",
            param="dimensions",
        )
    inputs: list[str | list[int]] = [*request.input]
    prompts = await off_loop(
        sum(map(len, inputs)),
        lambda: tuple(
            _prompt(item, request.name_of(index), request, model, loaded)
            for index, item in enumerate(inputs)
        ),
    )
    return scoring_task(request, prompts, model, context, settings, OutputParams(embedding=True))


def _prompt(
    item: str | list[int],
    name: str,
    request: EmbeddingsRequest,
    model: TextModel,
    loaded: LoadedModel,
) -> Prompt:
    """`name`: of the input, for errors."""
    longest = loaded.max_model_len
    most = request.truncate_prompt_tokens
    if most is not None:
        return _first_tokens(item, name, longest if most < 0 else most, request, model, loaded)
    if isinstance(item, str):
        check_prompt_chars(len(item), loaded, param=name)
        token_ids = model.tokenizer.encode(item, add_special_tokens=request.add_special_tokens)
        if not token_ids:
            raise InvalidRequest(f"{name} has no tokens", param=name)
    else:
        token_ids = item
    if len(token_ids) > longest:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {longest} tokens. However, {name} has "
            f"{len(token_ids)} tokens. Please make it shorter.",
            param=name,
            hint='or send "truncate_prompt_tokens": -1 to use only what fits of its beginning',
        )
    check_token_ids(token_ids, loaded, param=name)
    return Prompt(token_ids)


def _first_tokens(
    item: str | list[int],
    name: str,
    num_tokens: int,
    request: EmbeddingsRequest,
    model: TextModel,
    loaded: LoadedModel,
) -> Prompt:
    if num_tokens > loaded.max_model_len:
        raise InvalidRequest(
            f"truncate_prompt_tokens must be at most {loaded.max_model_len}, the context length of "
            f"this model; got {num_tokens}",
            param="truncate_prompt_tokens",
        )
    if isinstance(item, list):
        check_token_ids(item, loaded, param=name)
        return Prompt(item[:num_tokens], num_truncated=max(0, len(item) - num_tokens))
    try:
        token_ids, num_truncated = model.tokenizer.encode_start(
            item, num_tokens, add_special_tokens=request.add_special_tokens
        )
    except ValueError as error:
        raise InvalidRequest(
            f"truncate_prompt_tokens is too small: {error}", param="truncate_prompt_tokens"
        ) from error
    if not token_ids:
        raise InvalidRequest(f"{name} has no tokens", param=name)
    return Prompt(token_ids, num_truncated=num_truncated)
