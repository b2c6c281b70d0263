"""What surrounds every result: the HTTP response it came in, and how unknown fields are kept.

Every complete result carries `.request_id`, `.headers`, `.timings` and `.ignored_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, TypeAdapter

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Timings:
    """Where the time went, as the server measured it; None = it did not say."""

    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Envelope:
    """The HTTP response around a result."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    request_id: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").lower().startswith("text/event-stream")

    @property
    def ignored_params(self) -> tuple[str, ...]:
        """Names of request fields the server did not know."""
        names = self.headers.get("x-ignored-params", "").split(",")
        return tuple(name.strip() for name in names if name.strip())

    def timings(self, ext: Mapping[str, Any] | None = None) -> Timings:
        """From the response headers; `ext.timings` of the body is more exact where present."""
        values: dict[str, Any] = {
            name: self.headers.get(f"x-{name.replace('_', '-')}")
            for name in ("queue_ms", "prefill_ms", "decode_ms")
        }
        in_body = (ext or {}).get("timings")
        values.update(in_body if isinstance(in_body, dict) else {})
        return Timings(**{field.name: _number(values.get(field.name)) for field in fields(Timings)})


class Received:
    """What results and streams tell about the HTTP response they came in."""

    _envelope: Envelope

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id`: what the server's log calls this request."""
        return self._envelope.request_id

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers, names in lower case."""
        return self._envelope.headers

    @property
    def ignored_params(self) -> tuple[str, ...]:
        """Names of request fields the server did not know and ignored."""
        return self._envelope.ignored_params

    @property
    def timings(self) -> Timings:
        """Where the time went, as far as the server said."""
        return self._envelope.timings(self._ext())

    def _ext(self) -> Mapping[str, Any] | None:
        raise NotImplementedError


class Part(BaseModel):
    """A piece of a result. Fields that are not declared stay readable as attributes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def to_dict(self) -> dict[str, Any]:
        """What the server sent, as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)


class Result(Received, Part):
    """A complete result."""

    _envelope: Envelope = PrivateAttr(default_factory=Envelope)

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """The result in a response's body. Raises ValidationError."""
        return cls.model_validate_json(content)

    def with_envelope(self, envelope: Envelope) -> None:
        """Called once, by the client that received it."""
        self._envelope = envelope

    def with_format(self, response_format: TypeAdapter[Any] | None) -> None:
        """The same, with the class that the call gave as `response_format`."""

    def _ext(self) -> Mapping[str, Any] | None:
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
