"""What the scheduler tells the runner, and what the runner answers.

A plan is a list of (sequence, how many tokens): prefill, chunk, prefix hit and decode are one
case. It is a diff: the runner keeps tokens, block table and sampling state of a row between steps.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from shoal.protocol.messages import LoadedModel, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams


@dataclass(slots=True)
class NewRow:
    """A sequence the runner has not seen, or forgot when it was preempted."""

    seq_id: int
    token_ids: list[int]
    """Every known token: the prompt, after a preemption also the output so far."""
    num_prompt_tokens: int
    block_ids: list[int]
    sampling: SamplingParams
    stop: StopParams
    output: OutputParams

    @property
    def prompt_token_ids(self) -> list[int]:
        return self.token_ids[: self.num_prompt_tokens]

    @property
    def output_token_ids(self) -> list[int]:
        """Those sampled before a preemption."""
        return self.token_ids[self.num_prompt_tokens :]


@dataclass(slots=True)
class StepPlan:
    """One step of one model. Columns: row i computes `num_new_tokens[i]` tokens of
    `seq_ids[i]`, starting at position `num_computed_tokens[i]`. For reading only: plans of the
    same rows share lists."""

    seq_ids: list[int] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)
    num_new_tokens: list[int] = field(default_factory=list)
    new_rows: list[NewRow] = field(default_factory=list)
    """Rows first seen in this step; their ids are in `seq_ids` too."""
    new_block_ids: dict[int, list[int]] = field(default_factory=dict)
    """Blocks appended to the block tables of rows the runner knows."""
    released: list[int] = field(default_factory=list)
    """Sequences that ended, were aborted or preempted since the last plan: forget them before
    anything else. After a failed step ids may come twice; unknown ones are no error."""
    continues: bool = False
    """The rows of the plan before, in the same order, each one token further: the token it just
    sampled. Nothing is new or released, and `new_block_ids` has one block for each row whose
    token is the first of a block. So a runner can go on with the arrays of that step."""

    @property
    def num_tokens(self) -> int:
        return sum(self.num_new_tokens)


@dataclass(slots=True)
class StepResult:
    """One entry per row of the plan, in its order."""

    token_ids: list[int | None]
    """The sampled token; None while known tokens are left to compute, and for a failed row. A
    runner does not look at `max_tokens`: what it samples for a sequence that wants no token is
    ignored."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    """For the prompt tokens computed in this step: the log-probability of the NEXT prompt
    token at each position, so a whole prompt of n tokens gives n - 1 entries over its chunks."""
    errors: dict[int, str] = field(default_factory=dict)
    """Rows that failed alone, with an error code such as numerical_error."""


class Runner(Protocol):
    """Computes plans of one model."""

    def run(self, plan: StepPlan) -> StepResult:
        """Computes the plan's rows. A row that fails alone is in `errors`; an exception means
        that the whole step failed. Unknown ids in `plan.released` are no error: after a failed
        step the scheduler does not know how far the runner came."""
        ...


class LoadedRunner(NamedTuple):
    """A model that is ready to compute."""

    runner: Runner
    loaded: LoadedModel
    """What the HTTP side is told of it."""
    num_blocks: int
    """KV blocks it has."""
