"""An embeddings request on an engine client that only writes down what it is given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal.bridge.engine_client import SequenceSink
from shoal.errors import ShoalError, Unavailable
from shoal.protocol.messages import Finished, Submit
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.text.embedding_generation import EmbeddingGeneration
from shoal.text.task import GenerationTask, Prompt
from tests.unit.text.building import byte_level, text_model

END = Finished(FinishReason.LENGTH)


class Client:
    """Hands out ids, keeps what is submitted; refuses after `most` sequences."""

    def __init__(self, most: int = 1000) -> None:
        self.submits: list[Submit] = []
        self.sinks: list[SequenceSink] = []
        self.aborted: list[int] = []
        self._most = most
        self._next_id = 0

    def new_seq_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        if len(self.submits) == self._most:
            raise Unavailable("the engine is gone")
        self.submits.append(message)
        self.sinks.append(sink)

    def abort(self, seq_ids: Sequence[int]) -> None:
        self.aborted += seq_ids

    def end(self, index: int) -> None:
        """The engine says the last word of what was submitted so manyth."""
        self.sinks[index].push(None, None, None, None, END, embedding=bytes([index]))


def start(
    folder: Path, client: Any, num_inputs: int = 5, max_open: int = 2, **stop: Any
) -> EmbeddingGeneration:
    task = GenerationTask(
        request_id="r",
        model=text_model(byte_level(folder)),
        prompts=tuple(Prompt([i + 1]) for i in range(num_inputs)),
        sampling=SamplingParams(seed=0),
        stop=StopParams(max_tokens=0, **stop),
        output=OutputParams(embedding=True),
    )
    generation = EmbeddingGeneration(client, task, buffer_chunks=2, max_open=max_open)
    generation.submit()
    return generation


async def test_one_follows_as_one_ends(tmp_path: Path) -> None:
    client = Client()
    generation = start(tmp_path, client)
    found = {}
    for index in range(5):
        assert len(client.submits) == min(5, index + 2)
        client.end(index)
        for delta in await generation.wait() or ():
            found[delta.index] = delta.embedding
    assert await generation.wait() == []
    assert found == {index: bytes([index]) for index in range(5)}
    assert [submit.prompt_token_ids for submit in client.submits] == [[i + 1] for i in range(5)]
    assert all(submit.output.embedding for submit in client.submits)


async def test_nothing_follows_after_the_end_of_the_request(tmp_path: Path) -> None:
    for end in (EmbeddingGeneration.close, EmbeddingGeneration.cancel):
        client = Client()
        generation = start(tmp_path, client)
        end(generation)
        assert set(client.aborted) >= {1, 2}
        client.end(0)
        assert len(client.submits) == 2
        assert generation.cancel() is None


async def test_what_cannot_be_submitted_later_fails_the_request(tmp_path: Path) -> None:
    client = Client(most=2)
    generation = start(tmp_path, client)
    client.end(0)
    assert [delta.index for delta in await generation.wait() or ()] == [0]
    with pytest.raises(Unavailable, match="the engine is gone"):
        await generation.wait()
    assert 2 in client.aborted


async def test_what_cannot_be_submitted_at_first_leaves_nothing(tmp_path: Path) -> None:
    client = Client(most=1)
    with pytest.raises(Unavailable):
        start(tmp_path, client)
    assert 1 in client.aborted


async def test_later_ones_have_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    client = Client()
    start(tmp_path, client, deadline_s=5.0)
    now += 2.0
    client.end(0)
    now += 7.0
    client.end(1)
    left = [submit.stop.deadline_s for submit in client.submits]
    assert left[:3] == [5.0, 5.0, 3.0]
    assert left[3] == 0.001


async def test_a_sequence_that_fails_fails_the_request(tmp_path: Path) -> None:
    client = Client()
    generation = start(tmp_path, client)
    failed = Finished(FinishReason.ERROR, error_code="numerical_error")
    client.sinks[0].push(None, None, None, None, failed)
    with pytest.raises(ShoalError, match="not finite"):
        await generation.wait()
    assert len(client.submits) == 2
