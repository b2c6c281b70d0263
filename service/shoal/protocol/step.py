"""The scheduler's plan for one step, and the runner's result.

A plan lists sequences and how many tokens to compute for each; prefill, chunked prefill, prefix
cache hits and decode need no special cases. A plan is a diff: between steps the runner keeps the
tokens, block table and sampling state of each row.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from shoal.protocol.messages import AdapterLoaded, AdapterSource, LoadedModel, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.trace import TokenTrace


@dataclass(slots=True)
class NewRow:
    """A sequence that is new to the runner, or that it dropped at a preemption."""

    seq_id: int
    token_ids: list[int]
    """The prompt; after a preemption also the output so far."""
    num_prompt_tokens: int
    block_ids: list[int]
    sampling: SamplingParams
    stop: StopParams
    output: OutputParams
    adapter_id: int = 0
    """Which adapter its tokens pass; 0 = none."""
    shares_with: str | None = None
    """Rows with the same text may learn from each other what their grammar makes likely; one
    without learns from nobody."""

    @property
    def prompt_token_ids(self) -> list[int]:
        return self.token_ids[: self.num_prompt_tokens]

    @property
    def output_token_ids(self) -> list[int]:
        """Output tokens sampled before a preemption."""
        return self.token_ids[self.num_prompt_tokens :]


@dataclass(slots=True)
class StepPlan:
    """One step of one model. Columns: row i computes `num_new_tokens[i]` tokens of
    `seq_ids[i]`, starting at position `num_computed_tokens[i]`. Read-only: plans of the same
    rows share lists."""

    seq_ids: list[int] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)
    num_new_tokens: list[int] = field(default_factory=list)
    new_rows: list[NewRow] = field(default_factory=list)
    """Rows that are new in this step; their ids are also in `seq_ids`."""
    new_block_ids: dict[int, list[int]] = field(default_factory=dict)
    """Blocks to append to the block tables of rows, of new ones behind those they come with."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """Guessed tokens behind the known ones of a row, counted in its `num_new_tokens`: each is
    computed, and holds if it is what the runner samples at its position."""
    wants_expected: bool = False
    """May the rows have drafts in the next step? `StepResult.expected` is wanted then."""
    released: list[int] = field(default_factory=list)
    """Sequences that finished, were aborted or were preempted since the last plan. The runner drops
    them first. After a failed step an id may be repeated; unknown ids are ignored."""
    continues: bool = False
    """True if the plan has the same rows as the previous one, in the same order, and each computes
    the token it just sampled. No row is new or released, and `new_block_ids` has one block for
    each row whose token starts a block, so a runner can reuse the arrays of the previous step."""

    @property
    def num_tokens(self) -> int:
        return sum(self.num_new_tokens)

    @property
    def num_drafted(self) -> int:
        return sum(map(len, self.drafts.values()))


@dataclass(slots=True)
class StepResult:
    """One entry per row of the plan, in its order."""

    token_ids: list[int | None]
    """The sampled token; None for a failed row and while prompt tokens remain to be computed. The
    runner does not check `max_tokens`; a token sampled beyond it is ignored."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    """For the prompt tokens computed in this step: the log-probability of the NEXT prompt
    token at each position, so a prompt of n tokens gives n - 1 entries over all its chunks."""
    errors: dict[int, str] = field(default_factory=dict)
    """Rows that failed individually, with an error code such as numerical_error."""
    further: dict[int, list[int]] = field(default_factory=dict)
    """Tokens that follow a row's first one in the same step: what was sampled while its drafts
    were right, and what its grammar forces. The row knows them already. Where a position behind
    the first fails, its tokens end before it, and the next step meets the same failure."""
    ended: set[int] = field(default_factory=set)
    """Rows whose grammar allows nothing after these tokens."""
    expected: dict[int, list[int]] = field(default_factory=dict)
    """Where the plan wants it: what a row's grammar takes for likely behind these tokens."""
    traces: dict[int, TokenTrace] = field(default_factory=dict)
    embeddings: dict[int, bytes] = field(default_factory=dict)
    """Of rows whose prompt is computed and whose `output.embedding` is set: little-endian float32.
    """


class Runner(Protocol):
    """Executes step plans of one model."""

    def run(self, plan: StepPlan) -> StepResult:
        """Computes the plan's rows. A row that fails individually is in `errors`; an exception
        means that the whole step failed. Unknown ids in `plan.released` are ignored: after a
        failed step the scheduler does not know which rows the runner has stored."""
        ...


@runtime_checkable
class GrammarRunner(Runner, Protocol):
    """A runner whose rows may follow a grammar."""

    def prepare_grammar(self, sampling: SamplingParams) -> "Future[str | None]":
        """Makes it ready beside the steps: None once a row may have it, else what is wrong."""
        ...

    def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
        """What a row with this grammar, which is ready, is likely to say first; see `NewRow` and
        `StepResult.expected`."""
        ...

    def forget_answers(self) -> None:
        """What rows may have learned from others."""
        ...


class KVMemory(NamedTuple):
    """Of a runner whose KV blocks cost memory only while they are in use, so that models can share
    one budget."""

    block_bytes: int
    release: Callable[[list[int]], None]
    """Gives the memory of these blocks back to the system; their content is lost."""


@runtime_checkable
class AdaptableRunner(Runner, Protocol):
    """A runner whose rows may have adapters."""

    def load_adapter(self, source: AdapterSource) -> AdapterLoaded:
        """Raises ModelFolderError for a folder that does not fit the model."""
        ...

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees one that no row has; unknown ids are ignored."""
        ...


class LoadedRunner(NamedTuple):
    """A loaded model and its runner."""

    runner: Runner
    loaded: LoadedModel
    """Description sent to the HTTP server."""
    num_blocks: int
    """KV blocks it can address."""
    kv_memory: KVMemory | None = None
    """None: its blocks are memory of its own, and none of it is shared."""
    may_go_back: bool = True
    """May a step compute other tokens at positions that were computed? Drafts need it."""
