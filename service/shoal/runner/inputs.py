"""The arrays one forward pass reads and returns, and the interface of what computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shoal.model.adapter import AdapterMatrix

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(slots=True)
class StepInputs:
    """All rows of one step, tokens concatenated; int32. T tokens, R rows, L logit rows."""

    token_ids: Int32  # [T]
    positions: Int32  # [T]
    slots: Int32  # [T] where each token's keys and values go: block_id * block_size + offset
    row_starts: Int32  # [R + 1] row r owns tokens row_starts[r] : row_starts[r + 1]
    context_lens: Int32  # [R] tokens of the sequence, this step's included
    block_tables: Int32  # [R, B] block ids in order, padded with 0
    logit_indices: Int32  # [L] positions in T whose logits are wanted, each once
    adapter_ids: Int32 | None = None  # [R] the adapter of each row, 0 = none; None = none has one
    lens_indices: Int32 | None = None  # [N] positions in T that the lens looks at; None = none
    hidden_indices: Int32 | None = None  # [H] positions in T whose final vectors are wanted


@dataclass(slots=True)
class Lens:
    """The logit lens: what the head finds in the residual of N tokens after each layer."""

    best_ids: Int32  # [layers, N] among the ids the tokenizer knows
    logprobs: Float32  # [layers, N] of the best id, over all columns of the head

    def of(self, row: int) -> tuple[list[int], list[float]]:
        """(best ids, their log-probabilities) after each layer, of one token."""
        return self.best_ids[:, row].tolist(), self.logprobs[:, row].tolist()


@dataclass(slots=True)
class HeadOutputs:
    """What the head gives for the L tokens of `logit_indices`."""

    best_ids: Int32  # [L] among the ids the tokenizer knows; of equal logits the lower id
    best_logits: Float32  # [L] not finite where any logit is NaN or the best one is infinite
    logits: Float32  # [at least those wanted, columns of the head, padded ones included]
    lens: Lens | None = None  # of `lens_indices`
    hidden: Float32 | None = None  # [H, hidden_size] final vectors of `hidden_indices`


class Backend(Protocol):
    """Computes one model on one device, with its own KV cache of fixed size."""

    name: str
    """What computes: "torch" or the native kernel set's name."""

    def forward(self, inputs: StepInputs) -> Float32:
        """Writes keys and values of all tokens; returns float32 logits [L, columns of the
        head]: all of a padded vocabulary."""
        ...


@runtime_checkable
class AdaptableBackend(Backend, Protocol):
    """One whose rows may have adapters."""

    def load_adapter(self, adapter_id: int, matrices: Sequence[AdapterMatrix]) -> None: ...

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees one that no row has; unknown ids are ignored."""
        ...


@runtime_checkable
class LensBackend(Backend, Protocol):
    """One that also looks at the tokens of `lens_indices`."""

    def forward_lens(self, inputs: StepInputs) -> tuple[Float32, Lens]:
        """The same step with its lens."""
        ...


@runtime_checkable
class HiddenBackend(Backend, Protocol):
    """One that also gives the final vectors of `hidden_indices`."""

    def forward_hidden(self, inputs: StepInputs) -> tuple[Float32, Float32]:
        """The same step: logits, and [H, hidden_size] behind the last norm."""
        ...


@runtime_checkable
class BestBackend(Backend, Protocol):
    """One that can find the best token without writing logits, with a lens and final vectors."""

    def forward_best(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
        """The same step; logits of the first `num_logits` of the L tokens only."""
        ...
