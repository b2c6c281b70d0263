"""Renders the vectors of an embeddings request as one JSON answer. Does no I/O."""

from array import array
from collections.abc import Iterator
from typing import Any

from shoal.server.api.embeddings.vectors import cut, read_vector, to_base64, to_numbers
from shoal.server.api.generation.serialize import answer_pieces
from shoal.server.api.scoring.fields import ScoringRenderer, scoring_usage
from shoal.text.delta import Delta
from shoal.text.generator import Generation
from shoal.text.task import GenerationTask


class EmbeddingsRenderer(ScoringRenderer):
    """Renders the /v1/embeddings response of one request."""

    def __init__(
        self,
        task: GenerationTask,
        *,
        as_base64: bool,
        dimensions: int | None,
        tells_truncated: bool,
    ) -> None:
        """`tells_truncated`: how many tokens were left out of each input."""
        self._task = task
        self._as_base64 = as_base64
        self._dimensions = dimensions
        self._tells_truncated = tells_truncated

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        return b"".join(self.pieces(deltas, generation))

    def pieces(self, deltas: list[Delta], generation: Generation) -> Iterator[bytes]:
        answer: dict[str, Any] = {
            "model": self._task.model.name,
            "usage": scoring_usage(generation),
        }
        if self._tells_truncated:
            answer["ext"] = {"truncated": [prompt.num_truncated for prompt in self._task.prompts]}
        return answer_pieces({"object": "list"}, map(self._entry, deltas), answer, "data")

    def _entry(self, delta: Delta) -> dict[str, Any]:
        vector = cut(vector_of(delta), self._dimensions)
        return {
            "object": "embedding",
            "index": delta.index,
            "embedding": to_base64(vector) if self._as_base64 else to_numbers(vector),
        }


def vector_of(delta: Delta) -> "array[float]":
    """The vector that a sequence ended with."""
    assert delta.embedding is not None, "a sequence that is over has its vector"
    return read_vector(delta.embedding)
