"""Fields of Ollama's requests, and their translation to the body of a chat or completion."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from shoal.errors import NotSupportedByModel
from shoal.server.api.chat.tools import MAX_TOOLS
from shoal.server.api.completions.schema import CompletionRequest
from shoal.server.api.dialect import DialectFields, NeutralValues, given
from shoal.server.api.generation.fields import Int
from shoal.server.api.generation.number_types import at_most
from shoal.server.api.ollama.messages import OllamaMessage, chat_messages, refuse_images
from shoal.server.api.ollama.options import Options
from shoal.server.errors import FieldProblem
from shoal.text.text_model import TextModel


class OllamaFields(DialectFields):
    """What both routes take."""

    model: str = Field(min_length=1, max_length=256)
    stream: bool = True
    format: str | dict[str, Any] = ""
    options: Options = Field(default_factory=lambda: Options())
    keep_alive: float | str | None = None
    think: bool | str = False
    logprobs: bool = False
    top_logprobs: Int = Field(0, ge=0)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str) and value not in ("", "json"):
            raise FieldProblem('must be "json" or a JSON schema')
        return value

    def _common_body(self, name: str, model: TextModel) -> dict[str, Any]:
        """`name`: that the server knows the model by."""
        body = {
            **self.extras(),
            **self.options.our_fields(),
            **given(keep_alive=self.keep_alive),
            **self._thinking(model),
            "model": name,
            "stream": self.stream,
        }
        if self.format == "json":
            body["response_format"] = {"type": "json_object"}
        elif self.format:
            schema = {"name": "output", "schema": self.format}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _chat_body(self, name: str, model: TextModel) -> dict[str, Any]:
        body = self._common_body(name, model)
        if self.logprobs:
            body.update(logprobs=True, top_logprobs=self.top_logprobs)
        return body

    def _thinking(self, model: TextModel) -> dict[str, Any]:
        """Variables of the chat template. Raises NotSupportedByModel if it has no such."""
        source = model.chat.source or ""
        if isinstance(self.think, str):
            if "reasoning_effort" not in source:
                raise NotSupportedByModel(f"model {model.name} has no levels of thinking",
                                          param="think")  # fmt: skip
            return {"reasoning_effort": self.think}
        if "enable_thinking" in source:
            is_given = "think" in self.model_fields_set
            return {"chat_template_kwargs": {"enable_thinking": self.think}} if is_given else {}
        if self.think and model.chat.reasoning is None:
            raise NotSupportedByModel(f"model {model.name} does not support thinking",
                                      param="think")  # fmt: skip
        return {}


class OllamaChat(OllamaFields):
    """Body of /api/chat. Without messages it asks whether the model is loaded."""

    messages: Annotated[list[OllamaMessage], at_most("max_messages")] = Field([], fail_fast=True)
    tools: list[dict[str, Any]] = Field([], max_length=MAX_TOOLS)

    @property
    def is_load(self) -> bool:
        return not self.messages

    def chat_body(self, name: str, model: TextModel) -> dict[str, Any]:
        messages, ignored = chat_messages(self.messages)
        tools = {"tools": self.tools} if self.tools else {}
        return {**self._chat_body(name, model), **ignored, **tools, "messages": messages}


class OllamaGenerate(OllamaFields):
    """Body of /api/generate. Without a prompt it asks whether the model is loaded."""

    prompt: str = ""
    system: str | None = None
    raw: bool = Field(False, description="Continue the prompt as it is, without a template.")
    suffix: str = ""
    images: list[Any] = Field([])

    neutral: ClassVar[NeutralValues] = {"template": ("",), "context": ([],)}

    @property
    def is_load(self) -> bool:
        return not self.prompt and not self.raw

    def is_completion(self, model: TextModel) -> bool:
        """Whether the prompt is continued as it is: asked for, or for want of a template."""
        return self.raw or bool(self.suffix) or model.chat.source is None

    def chat_body(self, name: str, model: TextModel) -> dict[str, Any]:
        refuse_images(self.images, "images")
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": self.prompt}]
        return {**self._chat_body(name, model), "messages": messages}

    def completion_body(self, name: str, model: TextModel) -> dict[str, Any]:
        """Raises NotSupportedByModel for a system prompt that has no template to stand in."""
        refuse_images(self.images, "images")
        if self.system:
            raise NotSupportedByModel("a prompt without template has no place for system",
                                      param="system")  # fmt: skip
        body = self._common_body(name, model)
        if self.logprobs:
            body["logprobs"] = self.top_logprobs
        return {**body, "prompt": self.prompt, **({"suffix": self.suffix} if self.suffix else {})}


class RawCompletion(CompletionRequest):
    """A completion that without max_tokens goes on until the context is full."""

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens
