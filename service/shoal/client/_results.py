"""Results of the calls that generate nothing: models, tokens, scores, usage, the server's state."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from ._envelope import Part, Result

if TYPE_CHECKING:
    from typing import Self


class Model(Result):
    """A model the server has. `ready` is False while it is being loaded."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""
    parent: str | None = None
    """Of an adapter: the model it changes."""
    max_model_len: int | None = None
    ready: bool | None = None
    capabilities: list[str] = Field(default_factory=list)
    """Of completion, chat, tools, reasoning, embedding."""
    embedding_size: int | None = None
    """Numbers of an embedding; None = it makes none."""
    defaults: dict[str, Any] = Field(default_factory=dict)


class ModelList(Result):
    """Every model, in `.data`; the list itself has a length, an order and positions too."""

    object: str = "list"
    data: list[Model]

    def __iter__(self) -> Iterator[Model]:  # type: ignore[override]  # pydantic's gives the fields
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Model:
        return self.data[index]


class Unloaded(Result):
    """The result of `admin.models.unload` and `admin.lora.unload`."""

    id: str = ""
    unloaded: bool = True


class Tokens(Result):
    """The result of `tokenize`. `prompt` is the rendered text when messages were given."""

    count: int
    tokens: list[int]
    max_model_len: int | None = None
    token_strs: list[str] | None = None
    prompt: str | None = None


class Text(Result):
    """The result of `detokenize`."""

    prompt: str


class Health(Result):
    """Whether the server can serve, and what it says about its models."""

    status: str = ""
    models: dict[str, Any] | None = None

    @property
    def ready(self) -> bool:
        return self._envelope.status == 200


class ChoiceScore(Part):
    """How likely one of the choices of `score_choices` is."""

    index: int = 0
    logprob: float
    """Sum over its tokens, or normalized as the call asked."""
    tokens: int = 0
    is_greedy: bool | None = None
    """Whether greedy decoding would write exactly this."""
    rank: int | None = None
    """1 is the likeliest."""
    token_logprobs: list[float] | None = None


class ChoiceScores(Result):
    """The result of `score_choices`, in the order of the choices."""

    choices: list[ChoiceScore]

    @property
    def best(self) -> int:
        """Index of the likeliest choice; of equal ones the first."""
        return max(range(len(self.choices)), key=lambda index: self.choices[index].logprob)


class TextPerplexity(Part):
    """How well a model predicts one text."""

    nll: float
    """Negative log-likelihood in nats, of all its tokens."""
    tokens: int
    perplexity: float
    bits_per_byte: float | None = None


class Perplexity(TextPerplexity, Result):
    """The result of `perplexity`: of all inputs together, and of each in `.data`."""

    data: list[TextPerplexity] = Field(default_factory=list)


class Embedding(Part):
    """The vector of one input."""

    index: int = 0
    embedding: list[float]

    @field_validator("embedding", mode="before")
    @classmethod
    def _from_base64(cls, value: Any) -> Any:
        """Little-endian float32 numbers, as the server sends them if asked for base64."""
        if not isinstance(value, str):
            return value
        numbers = array("f", base64.b64decode(value, validate=True))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()


class EmbeddingList(Result):
    """The result of `embeddings.create`, in the order of the inputs."""

    model: str = ""
    data: list[Embedding]
    usage: dict[str, Any] | None = None


class Cancelled(Result):
    """The result of `cancel`."""

    cancelled: bool
    tokens_generated: int = 0


class UsageRow(Part):
    """What was used of one model on one day."""

    day: str = ""
    tenant: str = ""
    model: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cpu_seconds: float | None = None
    est_cost: float | None = None


class UsageReport(Result):
    """The result of `usage`: the caller's own totals, with an admin key everyone's."""

    data: list[UsageRow] = Field(default_factory=list)
    since: str | None = None


class Version(Result):
    """The result of `version`: of the server, and what computes each of its models."""

    version: str = ""
    models: dict[str, Any] = Field(default_factory=dict)


class ModelLoad(Part):
    """How busy a model is."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    tokens_per_second: float = 0.0


class Load(Result):
    """The result of `load`, by model."""

    models: dict[str, ModelLoad] = Field(default_factory=dict)


class MetricsPage(Result):
    """The result of `metrics`: the server's counters as Prometheus reads them."""

    text: str

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        return cls(text=content.decode("utf-8", "replace"))


class Done(Result):
    """An administrator's call was carried out; the fields are what the server says about it."""
