"""A backend whose logits say what it was given, and plans in a line."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow, StepPlan
from shoal.runner.inputs import Float32, HeadOutputs, Lens, StepInputs
from shoal.runner.model_runner import ModelRunner
from shoal.sampling.sampler import Sampler

BLOCK_SIZE = 4
VOCAB = 97


@dataclass(slots=True)
class EchoBackend:
    """Remembers tokens by slot, as a KV cache does. The best next token is a hash of all tokens
    that a row's block table leads to, so a wrong slot, position or table changes the text."""

    name: str = "echo"
    slots: dict[int, int] = field(default_factory=dict)
    seen: list[StepInputs] = field(default_factory=list)
    spoil: set[int] = field(default_factory=set)
    """Tokens after which the logits are NaN."""
    num_said: int = VOCAB
    """Tokens that are ever best."""

    def forward(self, inputs: StepInputs) -> Float32:
        self.seen.append(inputs)
        for slot, token_id in zip(inputs.slots.tolist(), inputs.token_ids.tolist(), strict=True):
            self.slots[slot] = token_id
        logits = np.zeros((len(inputs.logit_indices), VOCAB + 3), np.float32)
        logits[:, VOCAB:] = 100.0  # a padded vocabulary: never to be sampled
        for line, index in enumerate(inputs.logit_indices.tolist()):
            row = int(np.searchsorted(inputs.row_starts, index, side="right")) - 1
            table = inputs.block_tables[row].tolist()
            known = [
                self.slots[table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE]
                for position in range(int(inputs.positions[index]) + 1)
            ]
            logits[line, next_token(known) % self.num_said] = 5.0
            if known[-1] in self.spoil:
                logits[line] = np.nan
        return logits

    def forward_lens(self, inputs: StepInputs) -> tuple[Float32, Lens]:
        return self.forward(inputs), look(inputs)


@dataclass(slots=True)
class EchoBestBackend(EchoBackend):
    """The same, but it gives no more logits than it is asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    """(logits in full, best ids) of each step."""

    def forward_best(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
        logits = self.forward(inputs)
        self.asked.append((num_logits, len(logits)))
        best = logits[:, :VOCAB].argmax(axis=1)
        values = logits[np.arange(len(best)), best]
        lens = None if inputs.lens_indices is None else look(inputs)
        return HeadOutputs(best.astype(np.int32), values, logits[:num_logits].copy(), lens)


def look(inputs: StepInputs) -> Lens:
    """Of two layers; which token it looked at, and where that stood."""
    assert inputs.lens_indices is not None
    found = inputs.token_ids[inputs.lens_indices] * 100 + inputs.positions[inputs.lens_indices]
    return Lens(np.stack([found, found + 1]), np.stack([found, found + 1]).astype(np.float32) / -8)


def next_token(known: list[int]) -> int:
    """What EchoBackend likes best after these tokens."""
    value = len(known)
    for token_id in known:
        value = value * 31 + token_id + 1
    return value % VOCAB


def make_runner(
    backend: EchoBackend, *, max_rows: int = 8, sampler: Sampler | None = None
) -> ModelRunner:
    return ModelRunner(
        backend,
        num_token_ids=VOCAB,
        max_rows=max_rows,
        max_tokens=64,
        block_size=BLOCK_SIZE,
        sampler=sampler,
    )


def new_row(
    seq_id: int,
    token_ids: list[int],
    block_ids: list[int],
    *,
    num_prompt_tokens: int | None = None,
    output: OutputParams | None = None,
    min_tokens: int = 0,
    stop_token_ids: tuple[int, ...] = (),
    **wishes: Any,
) -> NewRow:
    return NewRow(
        seq_id=seq_id,
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids) if num_prompt_tokens is None else num_prompt_tokens,
        block_ids=block_ids,
        sampling=SamplingParams(**{"seed": 0, "temperature": 0.0, **wishes}),
        stop=StopParams(max_tokens=99, min_tokens=min_tokens, stop_token_ids=stop_token_ids),
        output=output or OutputParams(),
    )


def plan(
    *parts: tuple[int, int, int],
    new: list[NewRow] | None = None,
    blocks: dict[int, list[int]] | None = None,
    released: list[int] | None = None,
    continues: bool = False,
) -> StepPlan:
    """parts: (sequence, computed tokens, new tokens)."""
    return StepPlan(
        seq_ids=[seq_id for seq_id, _, _ in parts],
        num_computed_tokens=[computed for _, computed, _ in parts],
        num_new_tokens=[count for _, _, count in parts],
        new_rows=new or [],
        new_block_ids=blocks or {},
        released=released or [],
        continues=continues,
    )
