"""Every message between the HTTP server and the engine.

Server to engine: `EngineConfig` (once, first), `Submit`, `Abort`, `LoadModel`, `UnloadModel`,
`LoadAdapter`, `UnloadAdapter`, `ResetCache`, `Shutdown`.
Engine to server: `Loading`, `LoadFailed`, `Loaded`, `Ready`, `ModelUnloaded`, `AdapterLoaded`,
`AdapterFailed`, `AdapterUnloaded`, `CacheReset`, `PromptPart`, `StepOutputs`, `Heartbeat`, `Alive`,
`EngineFailed`.
"""

from collections.abc import Iterator

import msgspec

from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.protocol.trace import TokenTrace


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


class ModelSource(msgspec.Struct, frozen=True, array_like=True):
    """A model folder to load at startup."""

    name: str
    path: str
    may_fail: bool = False
    """If True, the other models are still served when this one cannot be loaded."""
    aliases: tuple[str, ...] = ()
    """Other names that requests may use."""


class AdapterSource(msgspec.Struct, frozen=True, array_like=True):
    """A LoRA adapter folder, and the model it changes."""

    name: str
    model: str
    """The base, by its name among the models."""
    path: str
    adapter_id: int
    """Above 0, never used twice by a server: a name loaded again is another adapter, also to the
    prefix cache."""
    may_fail: bool = False
    """If True, the models are served without it when it cannot be loaded."""


class EngineConfig(_Message, frozen=True):
    """The engine's configuration; sent as the first frame."""

    models: tuple[ModelSource, ...]
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: str = "auto"
    """auto (the checkpoint's), float32 or bfloat16."""
    quantize: str = "none"
    """none, int8 or int4 (native kernels only; overrides dtype for the weights)."""
    kernels: str = "auto"
    """auto, native or torch."""
    num_threads: int = 0
    """Compute threads; 0 = based on the cores available to this process."""
    kv_cache_bytes: int = 256 << 20
    """KV cache memory, shared by all models."""
    kv_cache_dtype: str = "auto"
    """auto (float32 or bfloat16, by dtype) or int8 (native kernels only)."""
    block_size: int = 16
    """Tokens per KV block."""
    max_batch_size: int = 64
    """Maximum sequences in one step."""
    token_budget: int = 192
    """Maximum tokens computed in one step."""
    max_model_len: int = 0
    """Upper bound on the context length; 0 = each model's own."""
    prefix_cache: bool = True
    drafts: bool = True
    """Guess tokens where few sequences run, and compute several in one step."""
    draft_weight_bytes: int = 32 << 20
    """Models of fewer get drafts under grammars only: preparing others takes more than it saves."""
    max_preemptions: int = 8
    """How often one sequence may be preempted before it fails."""
    heartbeat_s: float = 1.0
    adapters: tuple[AdapterSource, ...] = ()
    """Loaded with their models."""


class Submit(_Message, frozen=True):
    """Start one sequence."""

    seq_id: int
    """Assigned by the HTTP server; unique for the life of the engine process."""
    model: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    stop: StopParams
    output: OutputParams = OutputParams()
    priority: int = 0
    """-10 (first) to 10 (last)."""
    tenant: str = ""
    """Owner of the request, for fair scheduling."""
    cache_salt: str = ""
    """Cached prefix blocks are shared only between requests with the same salt."""
    use_prefix_cache: bool = True
    adapter_id: int = 0
    """Of a loaded adapter of the model; 0 = the model as it is."""
    weight: float = 1.0
    """The tenant's share beside others', above 0."""


class Abort(_Message, frozen=True):
    """End these sequences now. Unknown or finished ids are ignored."""

    seq_ids: list[int]


class LoadModel(_Message, frozen=True):
    """Load one more model beside those that are served; answered by `Loading`, then `Loaded` or
    `LoadFailed`."""

    source: ModelSource


class UnloadModel(_Message, frozen=True):
    """Free a model and its adapters; answered by `ModelUnloaded`. Its sequences fail."""

    model: str


class ResetCache(_Message, frozen=True):
    """Forget the prefix caches; answered by `CacheReset`."""

    model: str = ""
    """Empty: of all models."""


class LoadAdapter(_Message, frozen=True):
    """Load an adapter; answered by `AdapterLoaded` or `AdapterFailed`."""

    source: AdapterSource


class UnloadAdapter(_Message, frozen=True):
    """Free an adapter once none of its sequences is left; answered by `AdapterUnloaded`. No
    sequence may be submitted with it after this."""

    adapter_id: int


class Shutdown(_Message, frozen=True):
    """Stop the engine loop and exit with code 0."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities at one position, from the raw model distribution."""

    token_id: int
    logprob: float
    top_ids: list[int]
    """The k most likely ids, most likely first."""
    top_logprobs: list[float]


class Started(msgspec.Struct, frozen=True, array_like=True):
    """Sent with the first token of a sequence."""

    num_cached_tokens: int
    queue_s: float
    prefill_s: float
    num_ahead: int = 0
    """Sequences of its model that were waiting when it arrived."""


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a sequence is that has no token yet."""

    position: int
    """In the queue of its model, by arrival: 1 is the next; 0 = its prompt is being computed."""
    num_processed: int
    num_tokens: int
    """Of the prompt, as are those processed."""
    eta_ms: int | None
    """Until its first token, estimated; None = unknown."""


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """Sent with the last output of a sequence."""

    reason: FinishReason
    stop_reason: int | str | None = None
    """The stop id that matched, "loop", "max_time", or None."""
    error_code: str | None = None
    """With reason "error": numerical_error, no_token_left, request_timeout,
    server_is_overloaded, grammar_error."""
    error_message: str | None = None
    """What was wrong with the request, where its caller can do something."""


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Statistics of one model at one moment."""

    model: str
    num_running: int
    num_waiting: int
    waiting_tokens: int
    num_blocks: int
    num_used_blocks: int
    num_preemptions: int
    tokens_per_s: float
    """Tokens computed per second (prefill and decode), moving average."""
    num_yields: int = 0
    """Rows that made way for another tenant."""
    queue_tokens_per_s: float = 0.0
    """The same while sequences waited, so what a full batch computes; 0 = not known yet."""


class StepOutputs(_Message, frozen=True):
    """What one step of one model produced, for all its sequences together.

    `seq_ids[i]` got the new token `token_ids[i]`, perhaps with `further` ones. Each dict has
    entries only for the sequences it applies to; a sequence may appear in `finished` without a new
    token.
    """

    model: str
    seq_ids: list[int]
    token_ids: list[int]
    batch_size: int
    num_tokens: int
    """Tokens computed in this step, all rows."""
    step_s: float
    stats: EngineStats
    logprobs: dict[int, TokenLogprobs] = {}
    prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}
    """From `prompt_logprobs_start` on, sent once; None for the first position, which has none."""
    started: dict[int, Started] = {}
    finished: dict[int, Finished] = {}
    further: dict[int, list[int]] = {}
    """Tokens of a sequence in `seq_ids` behind its first one: accepted drafts and what was sampled
    behind them, and tokens that a grammar forced."""
    traces: dict[int, TokenTrace] = {}
    cpu_s: float = 0.0
    """CPU time of this step, of all threads of the engine."""
    seq_cpu_s: dict[int, float] = {}
    """CPU time so far of the sequences that got a token or finished: their share of every step, by
    tokens computed."""
    progress: dict[int, Progress] = {}
    """Of sequences without a token whose callers asked for it; now and then."""
    embeddings: dict[int, bytes] = {}
    """Vectors of the sequences that asked for one and finished: little-endian float32 numbers, of
    length 1 where the model's files normalize them."""
    num_drafted: int = 0
    """Tokens that were guessed, and computed in this step."""
    num_accepted: int = 0
    """How many of them held."""

    def tokens(self) -> Iterator[tuple[int, list[int]]]:
        """(sequence, its new tokens)."""
        for seq_id, token_id in zip(self.seq_ids, self.token_ids, strict=True):
            yield seq_id, [token_id, *self.further.get(seq_id, ())]


class PromptPart(_Message, frozen=True):
    """Some of a sequence's `prompt_logprobs`, ahead of the `StepOutputs` that has the rest of them:
    those of a long prompt would make its frame too long."""

    seq_id: int
    prompt_logprobs: list[TokenLogprobs | None]


class Loading(_Message, frozen=True):
    """Load progress of a model, from 0 to 1."""

    model: str
    progress: float


class LoadFailed(_Message, frozen=True):
    """A model with `may_fail` could not be loaded; the others are still served."""

    model: str
    message: str


class LoadedModel(msgspec.Struct, frozen=True, array_like=True):
    """What the HTTP server needs to know about a ready model."""

    name: str
    vocab_size: int
    max_model_len: int
    """Maximum tokens of one sequence, prompt and output together."""
    num_parameters: int
    dtype: str
    device: str
    kernels: str
    """torch, or the name of the native kernel set in use."""
    weights_hash: str
    """First 16 hex digits of the SHA-256 over the weights file."""
    weight_bytes: int = 0
    """Memory used by the weights in the format they are computed in."""
    quantization: str = "none"
    """none, int8, int4, or the kind of most quantized blocks of the file (Q4_1)."""
    quality_loss: dict[str, dict[str, float]] | None = None
    """Metric -> {"full": value, quantization: value}, as recorded in the model folder."""
    kernels_reason: str | None = None
    """With kernels=auto, why the native kernels, or the GPU's, are not used."""
    embedding_size: int | None = None
    """Numbers of an embedding; None = it makes none."""
    generates: bool = True
    """Does it write text? False for an encoder."""
    whole_prompt: bool = False
    """Must all tokens of a prompt be computed in one step (they look at each other in both
    directions)?"""


class AdapterLoaded(_Message, frozen=True):
    """An adapter may be used."""

    adapter_id: int
    rank: int
    """Largest rank of its matrices."""
    num_parameters: int


class AdapterFailed(_Message, frozen=True):
    """An adapter could not be loaded."""

    adapter_id: int
    message: str


class AdapterUnloaded(_Message, frozen=True):
    """The adapter's last sequence is over and its memory free."""

    adapter_id: int


class Loaded(_Message, frozen=True):
    """A model is served from now on; others may still be loading."""

    model: LoadedModel


class ModelUnloaded(_Message, frozen=True):
    """The model is served no more and its memory free."""

    model: str


class CacheReset(_Message, frozen=True):
    """The prefix caches are empty."""

    num_blocks: int
    """KV blocks that they had."""


class Ready(_Message, frozen=True):
    """Every model is either loaded, or was reported as failed."""


class Heartbeat(_Message, frozen=True):
    """The engine loop is alive; sent after `heartbeat_s` without another message."""

    stats: list[EngineStats]


class Alive(_Message, frozen=True):
    """The engine process runs, but its loop has been in one step for longer than `heartbeat_s`."""


class EngineFailed(_Message, frozen=True):
    """The engine cannot continue (bad model folder, out of memory); it exits after this."""

    code: str
    message: str


ToEngine = (
    EngineConfig
    | Submit
    | Abort
    | LoadModel
    | UnloadModel
    | LoadAdapter
    | UnloadAdapter
    | ResetCache
    | Shutdown
)
AdapterEvent = AdapterLoaded | AdapterFailed | AdapterUnloaded
FromEngine = (
    Loading
    | LoadFailed
    | Loaded
    | Ready
    | ModelUnloaded
    | AdapterEvent
    | CacheReset
    | PromptPart
    | StepOutputs
    | Heartbeat
    | Alive
    | EngineFailed
)
