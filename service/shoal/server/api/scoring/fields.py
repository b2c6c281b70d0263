"""What the scoring routes have in common: their fields, their tasks, their answers."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shoal.config import Settings
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.server import sse
from shoal.server.api.generation.fields import named_unknown
from shoal.server.api.generation.number_types import Int
from shoal.server.context import RequestContext
from shoal.server.errors import printable
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.task import GenerationTask, Prompt
from shoal.text.text_model import TextModel


class ScoringFields(BaseModel):
    """Fields of every scoring request."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str | None = Field(None, max_length=256, description="Model id.")
    add_special_tokens: bool = Field(True, description="Of texts; token ids stay as they are.")
    priority: Int = Field(0, ge=-10, le=10, description="Lower runs first.")
    max_time: float | None = Field(None, gt=0, description="Seconds until the request fails.")
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)
    cache_prompt: bool = True
    user: str | None = Field(None, max_length=256)
    strict: bool = Field(False, description="Refuse unknown fields.")

    @property
    def stream(self) -> bool:
        """There is nothing to stream."""
        return False

    def check_extra_fields(self) -> list[str]:
        """Names of unknown fields. Raises InvalidRequest for one if `strict` is set."""
        return named_unknown(map(printable, self.model_extra or {}), strict=self.strict)

    def check_limits(self, settings: Settings) -> None:
        """Checks the limits set by the operator. Raises InvalidRequest."""


def scoring_task(
    fields: ScoringFields,
    prompts: tuple[Prompt, ...],
    model: TextModel,
    context: RequestContext,
    settings: Settings,
    output: OutputParams,
) -> GenerationTask:
    """Computes the prompts and generates nothing. `output`: what of them is reported."""
    timeout_s = settings.request_timeout
    return GenerationTask(
        request_id=context.request_id,
        model=model,
        prompts=prompts,
        sampling=SamplingParams(seed=0, temperature=0.0),
        stop=StopParams(max_tokens=0, deadline_s=min(fields.max_time or timeout_s, timeout_s)),
        output=output,
        use_prefix_cache=fields.cache_prompt,
    )


class ScoringRenderer(sse.OpenAIStream):
    """The part of a renderer that only streams need. These routes have none."""

    def chunk(self, delta: Delta) -> bytes:
        return b""

    def closing(self, generation: Generation) -> bytes:
        return b""


def scoring_usage(generation: Generation) -> dict[str, Any]:
    """Each prompt counts once for each text that is scored with it, less what was cached."""
    usage = generation.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
