"""One prompt being continued once: what was requested, and how far it has come.

A record without behaviour, owned by the scheduler. It has no mode flag: it is in prefill while
more than one known token is left to compute.
"""

from dataclasses import dataclass, field

from shoal.engine.prefix_cache import BlockKey
from shoal.protocol.messages import Submit, TokenLogprobs
from shoal.protocol.step import NewRow


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one sequence. Times are the engine clock's seconds."""

    seq_id: int
    submit: Submit
    arrival: int
    """Order of arrival, unique within a scheduler."""
    arrival_s: float
    waiting_since_s: float
    """When it arrived, or last made way for another tenant."""
    num_prompt_tokens: int
    max_num_tokens: int
    """Prompt and output together; the smaller of max_tokens' and the context's limit."""
    stop_ids: frozenset[int]
    """End and stop ids together: most tokens are none of them."""
    watches_loops: bool
    """Does it end when its output repeats itself?"""
    token_ids: list[int]
    """Prompt, then output."""
    cache_salt: str
    """Cached blocks are shared between sequences of one salt: the request's own, and the adapter,
    whose keys and values are no other's."""
    num_ahead: int = 0
    """Sequences that were waiting when it arrived."""
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in the blocks."""
    block_ids: list[int] = field(default_factory=list)

    block_keys: list[BlockKey] = field(default_factory=list)
    """Prefix cache keys of the first full blocks, computed when needed."""
    num_cached_blocks: int = 0
    """Leading blocks with an entry in the prefix cache, from this or another sequence."""
    last_cached: int | str = ""
    """Serial of the last of these entries; the salt if there is none."""

    num_cached_tokens: int = 0
    """Prompt tokens that were not computed, because the cache had them."""
    num_charged_tokens: int = 0
    """Tokens already charged to the tenant, or found in the cache; recomputing them is free."""
    num_preemptions: int = 0
    """For lack of blocks."""
    goes_first: bool = False
    """It was preempted for lack of blocks and has no row again yet."""
    num_yields: int = 0
    """Times it made way for another tenant."""
    cpu_s: float = 0.0
    """Its share of the CPU time of every step so far."""
    admitted_s: float | None = None
    """First time it left the waiting queue."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """Those computed so far, while they are requested and not yet sent."""

    def start_prompt_logprobs(self) -> None:
        """None are computed yet. The first position has no log-probability."""
        self.prompt_logprobs = [None] if self.submit.output.prompt_logprobs_start == 0 else []

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_computed_tokens(self) -> int:
        """Most tokens that are ever in blocks; the very last token is never computed."""
        return max(self.num_prompt_tokens, self.max_num_tokens - 1)

    @property
    def deadline_s(self) -> float | None:
        limit = self.submit.stop.deadline_s
        return None if limit is None else self.arrival_s + limit


def make_sequence(submit: Submit, max_model_len: int, arrival: int, now: float) -> Sequence:
    """The state of a sequence that just arrived."""
    num_prompt_tokens = len(submit.prompt_token_ids)
    cache_salt = f"{submit.adapter_id} {submit.cache_salt}"
    seq = Sequence(
        seq_id=submit.seq_id,
        submit=submit,
        arrival=arrival,
        arrival_s=now,
        waiting_since_s=now,
        num_prompt_tokens=num_prompt_tokens,
        max_num_tokens=min(num_prompt_tokens + submit.stop.max_tokens, max_model_len),
        stop_ids=frozenset(submit.stop.all_stop_ids),
        watches_loops=submit.stop.loop_min_repeats > 0,
        token_ids=list(submit.prompt_token_ids),
        cache_salt=cache_salt,
        last_cached=cache_salt,
    )
    if submit.output.prompt_logprobs is not None:
        seq.start_prompt_logprobs()
    return seq


def is_decoding(seq: Sequence) -> bool:
    """Does the planned step compute the sequence's last known token?"""
    return seq.num_tokens - seq.num_computed_tokens == 1


def shares_with(submit: Submit) -> str | None:
    """See `NewRow`."""
    if not submit.use_prefix_cache:
        return None
    return str((submit.tenant, submit.adapter_id, submit.cache_salt))


def new_row(seq: Sequence) -> NewRow:
    """What the runner needs to know of a sequence that got a row."""
    submit = seq.submit
    return NewRow(
        seq_id=seq.seq_id,
        token_ids=seq.token_ids.copy(),
        num_prompt_tokens=seq.num_prompt_tokens,
        block_ids=seq.block_ids.copy(),
        sampling=submit.sampling,
        stop=submit.stop,
        output=submit.output,
        adapter_id=submit.adapter_id,
        shares_with=shares_with(submit),
    )
