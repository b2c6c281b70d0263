"""A runner that remembers: what it answers depends on every block, position and token it used.

In the slot of each token, found through the block table that the plans gave it, it keeps a value
that depends on all tokens so far, as a real KV cache does; the next token is a hash of all values
it reads back. Any mistake in blocks, positions, prefix reuse, chunks or preemption changes the
output. No tensors.
"""

import struct
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from shoal.errors import ModelFolderError
from shoal.protocol.messages import AdapterLoaded, AdapterSource, LoadedModel, TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow, StepPlan, StepResult

_START = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(state: int, value: int) -> int:
    """64-bit hash of a pair (the finalizer of splitmix64)."""
    z = (state * 0xBF58476D1CE4E5B9 + value + 1) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def next_token(
    digest: int, position: int, sampling: SamplingParams, vocab_size: int, banned: tuple[int, ...]
) -> int:
    """The token at `position`, after tokens with this digest."""
    state = mix(digest, position)
    if not sampling.greedy:
        state = mix(state, sampling.seed)
    while (token_id := state % vocab_size) in banned:
        state = mix(state, 1)
    return token_id


def forced_after(token_id: int, sampling: SamplingParams, vocab_size: int) -> list[int]:
    """What a grammar forces behind a sampled token: nothing behind most."""
    if sampling.grammar is None or token_id % 3:
        return []
    return [(token_id * 7 + i) % vocab_size for i in range(token_id % 11)]


def ends_after(token_id: int, sampling: SamplingParams) -> bool:
    """Is the grammar over with a sampled token and those forced behind it?"""
    return sampling.grammar is not None and token_id % 16 in (1, 9)


def expected_by(token_ids: list[int], sampling: SamplingParams, vocab_size: int) -> list[int]:
    """What a grammar takes for likely behind these tokens: mostly what comes, without an adapter
    and a ban."""
    digest, value, known, expected = _START, start_value(0), list(token_ids), list[int]()
    for token_id in known:
        value = mix(value, token_id)
        digest = mix(digest, value)
    while len(expected) < 4:
        token_id = next_token(digest, len(known) + len(expected), sampling, vocab_size, ())
        for each_id in (token_id, *forced_after(token_id, sampling, vocab_size)):
            expected.append(each_id)
            value = mix(value, each_id)
            digest = mix(digest, value)
    if digest % 3 == 0:
        expected[-1] = (expected[-1] + 1) % vocab_size
    return expected


def solo_output(
    prompt: list[int],
    num_tokens: int,
    sampling: SamplingParams,
    vocab_size: int = 64,
    stop_ids: tuple[int, ...] = (),
    min_tokens: int = 0,
    adapter_id: int = 0,
) -> list[int]:
    """What a sequence must produce, whoever else is there: no blocks, no steps, no batch."""
    digest = _START
    value = start_value(adapter_id)
    output: list[int] = []
    for token_id in prompt:
        value = mix(value, token_id)
        digest = mix(digest, value)
    while len(output) < num_tokens:
        banned = stop_ids if len(output) < min_tokens else ()
        position = len(prompt) + len(output)
        token_id = next_token(digest, position, sampling, vocab_size, banned)
        for each_id in (token_id, *forced_after(token_id, sampling, vocab_size)):
            output.append(each_id)
            value = mix(value, each_id)
            digest = mix(digest, value)
            if each_id in stop_ids and len(output) > min_tokens:
                return output[:num_tokens]
        if ends_after(token_id, sampling):
            break
    return output[:num_tokens]


def solo_embedding(prompt: list[int], size: int) -> bytes:
    """The vector that a sequence must get, whoever else is there."""
    value = digest = _START
    for token_id in prompt:
        value = mix(value, token_id)
        digest = mix(digest, value)
    return _vector(digest, size)


def _vector(digest: int, size: int) -> bytes:
    """Little-endian float32 numbers between -1 and 1."""
    return struct.pack(f"<{size}f", *(mix(digest, i) % 2001 / 1000 - 1 for i in range(size)))


def start_value(adapter_id: int) -> int:
    """What the first token's value follows: with an adapter all values are others."""
    return mix(_START, adapter_id) if adapter_id else _START


@dataclass(slots=True)
class Row:
    """What the runner keeps of a sequence between steps."""

    new: NewRow
    token_ids: list[int]
    block_ids: list[int]


class FakeRunner:
    """Computes plans with integers. `before_step(plan)` may raise, sleep or look;
    `row_error(seq_id, token_ids)` may return an error code for a row."""

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        vocab_size: int = 64,
        *,
        step_s: float = 0.0,
        before_step: Callable[[StepPlan], None] | None = None,
        row_error: Callable[[int, list[int]], str | None] | None = None,
        embedding_size: int = 0,
        is_encoder: bool = False,
    ) -> None:
        """`is_encoder`: its prompts come whole, and it samples no token."""
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.rows: dict[int, Row] = {}
        self.num_steps = 0
        self.num_tokens = 0
        self.adapters: dict[int, AdapterSource] = {}
        self.preparing: list[Future[str | None]] = []
        self._slots: list[int | None] = [None] * (num_blocks * block_size)
        self._last: tuple[StepPlan, StepResult] | None = None  # unless that step failed
        self._step_s = step_s
        self._before_step = before_step
        self._row_error = row_error
        self._embedding_size = embedding_size
        self._is_encoder = is_encoder

    def run(self, plan: StepPlan) -> StepResult:
        self.num_steps += 1
        if self._step_s:
            time.sleep(self._step_s)
        last, self._last = self._last, None
        if self._before_step is not None:
            self._before_step(plan)
        if plan.continues:
            assert last is not None, "a plan continues none"
            self._check_continues(plan, *last)
        self._apply_diff(plan)
        result = StepResult([None] * len(plan.seq_ids))
        columns = list(
            zip(plan.seq_ids, plan.num_computed_tokens, plan.num_new_tokens, strict=True)
        )
        for seq_id, start, count in columns if self._is_encoder else ():
            assert start == 0, "a part of a prompt"
            assert count == len(self.rows[seq_id].token_ids), "a part of a prompt"
        drafts = {seq_id: plan.drafts.get(seq_id, []) for seq_id in plan.seq_ids}
        for seq_id, start, count in columns:  # all write before any reads its answer back
            self._write(self.rows[seq_id], start, count, drafts[seq_id])
        for index, (seq_id, start, count) in enumerate(columns):
            end = start + count - len(drafts[seq_id])
            self._answer(result, index, self.rows[seq_id], start, end, drafts[seq_id])
        if plan.wants_expected:
            told = [seq_id for seq_id in plan.seq_ids if seq_id not in result.errors]
            rows = ((seq_id, self.rows[seq_id]) for seq_id in told)
            result.expected = {
                seq_id: expected_by(row.token_ids, row.new.sampling, self.vocab_size)
                for seq_id, row in rows
                if row.new.sampling.grammar is not None
            }
        self.num_tokens += plan.num_tokens
        self._last = (plan, result)
        return result

    def prepare_grammar(self, sampling: SamplingParams) -> "Future[str | None]":
        """Is there at once, but for "slow", of which the test makes the future done. "wrong" cannot
        be used."""
        future: Future[str | None] = Future()
        if sampling.grammar == "slow":
            self.preparing.append(future)
        else:
            future.set_result("it is wrong" if sampling.grammar == "wrong" else None)
        return future

    def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
        """Nothing."""
        return []

    def forget_answers(self) -> None:
        """There is nothing to forget."""

    def load_adapter(self, source: AdapterSource) -> AdapterLoaded:
        """Any folder that an adapter could lie in; "broken" in its path means that it does not
        fit."""
        if "broken" in source.path:
            raise ModelFolderError("it belongs to another base")
        self.adapters[source.adapter_id] = source
        return AdapterLoaded(source.adapter_id, rank=8, num_parameters=1234)

    def unload_adapter(self, adapter_id: int) -> None:
        del self.adapters[adapter_id]

    def _check_continues(self, plan: StepPlan, last: StepPlan, result: StepResult) -> None:
        """The same rows, each with the token it just got, and nothing else."""
        assert plan.seq_ids == last.seq_ids, "other rows"
        assert None not in result.token_ids, "a row got no token"
        assert not result.further, "a row has more than one token to compute"
        assert plan.num_new_tokens == [1] * len(plan.seq_ids), "more than a token"
        ends = zip(last.num_computed_tokens, last.num_new_tokens, strict=True)
        assert plan.num_computed_tokens == [start + count for start, count in ends]
        assert not plan.drafts, "drafts in a plan that continues"
        assert not plan.new_rows, "a new row in a plan that continues"
        assert not plan.released, "a row leaves in a plan that continues"
        columns = zip(plan.seq_ids, plan.num_computed_tokens, strict=True)
        at_boundary = [seq_id for seq_id, start in columns if start % self.block_size == 0]
        assert list(plan.new_block_ids) == at_boundary, "blocks for other rows"
        assert all(len(block_ids) == 1 for block_ids in plan.new_block_ids.values())

    def _apply_diff(self, plan: StepPlan) -> None:
        for seq_id in plan.released:
            self.rows.pop(seq_id, None)
        for new in plan.new_rows:
            assert new.adapter_id == 0 or new.adapter_id in self.adapters, "an unknown adapter"
            assert new.seq_id not in self.rows, "a row is new twice"
            assert new.seq_id in plan.seq_ids, "a new row computes nothing"
            self.rows[new.seq_id] = Row(new, list(new.token_ids), list(new.block_ids))
        for seq_id, block_ids in plan.new_block_ids.items():
            self.rows[seq_id].block_ids += block_ids
        assert len(set(plan.seq_ids)) == len(plan.seq_ids), "a sequence has two rows"

    def _slot(self, row: Row, position: int) -> int:
        block_id = row.block_ids[position // self.block_size]
        return block_id * self.block_size + position % self.block_size

    def _value(self, row: Row, position: int) -> int:
        if position < 0:
            return start_value(row.new.adapter_id)
        value = self._slots[self._slot(row, position)]
        assert value is not None, "a slot is read before it was written"
        return value

    def _digest(self, row: Row, num_tokens: int) -> int:
        """Of all that lies in the blocks of the first `num_tokens` tokens."""
        digest = _START
        for position in range(num_tokens):
            digest = mix(digest, self._value(row, position))
        return digest

    def _write(self, row: Row, start: int, count: int, draft: list[int]) -> None:
        known = row.token_ids + draft
        assert count > len(draft), "a row computes nothing"
        assert start + count <= len(known), "a row computes tokens nobody knows"
        assert not draft or start + count == len(known), "drafts without the tokens before them"
        for position in range(start, start + count):
            value = mix(self._value(row, position - 1), known[position])
            self._slots[self._slot(row, position)] = value

    def _answer(
        self, result: StepResult, index: int, row: Row, start: int, end: int, draft: list[int]
    ) -> None:
        """`end`: of the known tokens that were computed; `draft` was computed behind them."""
        new = row.new
        if self._row_error is not None:
            code = self._row_error(new.seq_id, row.token_ids)
            if code is not None:
                result.errors[new.seq_id] = code
                return
        first = max(start, new.output.prompt_logprobs_start - 1)
        if new.output.prompt_logprobs is not None and first < min(end, new.num_prompt_tokens - 1):
            result.prompt_logprobs[new.seq_id] = [
                self.logprobs(row.token_ids[position + 1], self._value(row, position))
                for position in range(first, min(end, new.num_prompt_tokens - 1))
            ]
        if end < len(row.token_ids):
            return
        if new.output.embedding and end == new.num_prompt_tokens and self._embedding_size:
            vector = _vector(self._digest(row, end), self._embedding_size)
            result.embeddings[new.seq_id] = vector
        if self._is_encoder:
            return
        token_id = result.token_ids[index] = self._say(result, row, end)
        if new.output.logprobs is not None:
            assert not draft, "a row with log-probabilities has drafts"
            result.logprobs[new.seq_id] = self.logprobs(token_id, self._value(row, end - 1))
        while (said := row.token_ids[end:]) == draft[: len(said)] and not self._is_over(
            result, row
        ):
            self._say(result, row, end + len(said))
        if further := row.token_ids[end + 1 :]:
            result.further[new.seq_id] = further

    def _say(self, result: StepResult, row: Row, position: int) -> int:
        """The token at this position, where the row's known ones end, and those forced behind
        it."""
        new = row.new
        num_output = position - new.num_prompt_tokens
        banned = new.stop.all_stop_ids if num_output < new.stop.min_tokens else ()
        digest = self._digest(row, position)
        token_id = next_token(digest, position, new.sampling, self.vocab_size, banned)
        row.token_ids += [token_id, *forced_after(token_id, new.sampling, self.vocab_size)]
        if ends_after(token_id, new.sampling):
            result.ended.add(new.seq_id)
        return token_id

    def _is_over(self, result: StepResult, row: Row) -> bool:
        """Does the grammar allow nothing more, or does the next position fail?"""
        if row.new.seq_id in result.ended:
            return True
        error = self._row_error
        return error is not None and error(row.new.seq_id, row.token_ids) is not None

    def logprobs(self, token_id: int, value_before: int) -> TokenLogprobs:
        """A number that depends on the token and on all before it."""
        return TokenLogprobs(token_id, -(mix(value_before, token_id) % 1000) / 100, [], [])


def loaded_model(
    name: str = "fake",
    vocab_size: int = 64,
    max_model_len: int = 256,
    *,
    embedding_size: int | None = None,
    is_encoder: bool = False,
) -> LoadedModel:
    return LoadedModel(
        name=name,
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        num_parameters=0,
        dtype="float32",
        device="cpu",
        kernels="fake",
        weights_hash="0" * 16,
        embedding_size=embedding_size,
        generates=not is_encoder,
        whole_prompt=is_encoder,
    )
