"""The options of a request to Ollama, as fields of ours."""

from typing import Any

from pydantic import Field, field_validator

from shoal.errors import UnsupportedParameter
from shoal.server.api.chat.schema import ChatRequest
from shoal.server.api.dialect import SHAPE_FIELDS, NeutralValues, Part, refuse_unsupported
from shoal.server.api.generation.fields import Int
from shoal.server.errors import printable

# Ours -> Ollama's, where they differ.
OUR_NAMES = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}

_NEUTRAL: NeutralValues = {"mirostat": (0,), "tfs_z": (1,)}
_MEANINGLESS_WHEN_OFF = ("mirostat_tau", "mirostat_eta")
_SAME = ("temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty",
         "frequency_penalty")  # fmt: skip


class Options(Part):
    """Sampling and stopping. Options about the machine and the context's size have no effect here
    and are reported as ignored: the server's operator sets those."""

    num_predict: Int | None = Field(default=None, ge=-2, description="-1 = until the end.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: Int | None = Field(default=None, ge=-1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    seed: Int | None = Field(default=None, description="-1 = random.")
    stop: list[str] = Field(default=[], fail_fast=True)
    repeat_penalty: float | None = Field(default=None, gt=0, le=10)
    repeat_last_n: Int | None = Field(default=None, ge=-1, description="0 = off, -1 = all.")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)

    @field_validator("stop", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def our_fields(self) -> dict[str, Any]:
        """The same as fields of a chat or completion. Raises UnsupportedParameter."""
        fields: dict[str, Any] = {"stop": self.stop}
        neutral = {**SHAPE_FIELDS, **_NEUTRAL}
        for name, value in (self.model_extra or {}).items():
            refuse_unsupported(neutral, name, value)
            if name in _NEUTRAL or name in _MEANINGLESS_WHEN_OFF:
                continue
            ours = name in ChatRequest.model_fields
            fields[name if ours else f"options.{printable(name)}"] = value
        fields |= {name: value for name in _SAME if (value := getattr(self, name)) is not None}
        if self.num_predict is not None and self.num_predict > 0:
            fields["max_tokens"] = self.num_predict
        if self.seed is not None and self.seed != -1:
            fields["seed"] = self.seed
        if self.repeat_penalty is not None and self._counts_whole_text():
            fields["repetition_penalty"] = self.repeat_penalty
        return fields

    def _counts_whole_text(self) -> bool:
        """Whether the repeat penalty has an effect: only on all tokens so far, or on none."""
        if self.repeat_last_n in (None, -1, 0) or self.repeat_penalty == 1:
            return self.repeat_last_n != 0
        raise UnsupportedParameter(
            "repeat_last_n must be -1 (all tokens) or 0 (off) on this server",
            param="options.repeat_last_n",
        )
