"""Every message between the HTTP side and the engine.

HTTP side to engine: `EngineConfig` (once, first), `Submit`, `Abort`, `Shutdown`.
Engine to HTTP side: `Loading`, `LoadFailed`, `Ready`, `StepOutputs`, `Heartbeat`, `EngineFailed`.
"""

import msgspec

from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One record on the link."""


class ModelSource(msgspec.Struct, frozen=True, array_like=True):
    """A model folder to load at start."""

    name: str
    path: str
    may_fail: bool = False
    """Are the others served when this one cannot be loaded?"""


class EngineConfig(_Message, frozen=True):
    """Everything the engine process is told; sent as its first frame."""

    models: tuple[ModelSource, ...]
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: str = "auto"
    """auto (the checkpoint's), float32 or bfloat16."""
    quantize: str = "none"
    """none or int8 (native kernels only; takes the place of dtype for the weights)."""
    kernels: str = "auto"
    """auto, native or torch."""
    num_threads: int = 0
    """Compute threads; 0 = from the cores this process may use."""
    kv_cache_bytes: int = 256 << 20
    """One budget for the KV caches of all models."""
    block_size: int = 16
    """Tokens a KV block holds."""
    max_batch_size: int = 64
    """Most rows of one step."""
    token_budget: int = 192
    """Most tokens one step computes."""
    max_model_len: int = 0
    """Upper bound on the context length; 0 = each model's own."""
    prefix_cache: bool = True
    max_preemptions: int = 8
    """Times one sequence may be put back before it fails."""
    heartbeat_s: float = 1.0


class Submit(_Message, frozen=True):
    """Start one sequence."""

    seq_id: int
    """Unique for the life of the engine process; given by the HTTP side."""
    model: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    stop: StopParams
    output: OutputParams = OutputParams()
    priority: int = 0
    """-10 (first) to 10 (last)."""
    tenant: str = ""
    """For fairness: whose work this is."""
    cache_salt: str = ""
    """Prefix blocks are shared only between equal salts."""
    use_prefix_cache: bool = True


class Abort(_Message, frozen=True):
    """End these sequences now. Unknown or finished ids are ignored."""

    seq_ids: list[int]


class Shutdown(_Message, frozen=True):
    """Leave the loop and exit with code 0."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of one position, natural log, of the raw model distribution."""

    token_id: int
    logprob: float
    top_ids: list[int]
    """The k best ids, best first."""
    top_logprobs: list[float]


class Started(msgspec.Struct, frozen=True, array_like=True):
    """Sent with the first token of a sequence."""

    num_cached_tokens: int
    queue_s: float
    prefill_s: float


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """Sent with the last word about a sequence."""

    reason: FinishReason
    stop_reason: int | str | None = None
    """The stop id that matched, "max_time", or None."""
    error_code: str | None = None
    """With reason "error": numerical_error, request_timeout, server_is_overloaded."""


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Numbers of one model at one moment."""

    model: str
    num_running: int
    num_waiting: int
    waiting_tokens: int
    num_blocks: int
    num_used_blocks: int
    num_preemptions: int
    tokens_per_s: float
    """Computed tokens (prefill and decode), moving average."""


class StepOutputs(_Message, frozen=True):
    """What one step of one model produced, for all its sequences together.

    `seq_ids[i]` got the one new token `token_ids[i]`. The maps hold only the sequences that
    have something to say; a sequence may appear in `finished` without a new token.
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
    """Whole prompt, sent once; the first position has no log-probability: None."""
    started: dict[int, Started] = {}
    finished: dict[int, Finished] = {}


class Loading(_Message, frozen=True):
    """A model's load went on; `progress` is 0 to 1."""

    model: str
    progress: float


class LoadFailed(_Message, frozen=True):
    """A model that may fail cannot be loaded; the others go on."""

    model: str
    message: str


class LoadedModel(msgspec.Struct, frozen=True, array_like=True):
    """What the HTTP side must know of a model that is ready."""

    name: str
    vocab_size: int
    max_model_len: int
    """Most tokens, prompt and output together, that one sequence may have."""
    num_parameters: int
    dtype: str
    device: str
    kernels: str
    """Which code computes: torch, or the native kernel set's name."""
    weights_hash: str
    """First 16 hex digits of the SHA-256 over the weights file."""
    weight_bytes: int = 0
    """Memory that the weights take as they are computed with."""
    quantization: str = "none"
    """none or int8."""
    quality_loss: dict[str, dict[str, float]] | None = None
    """Metric -> {"full": value, "int8": value}, as the model's folder says it was measured."""
    kernels_reason: str | None = None
    """With kernels=auto, why others than the native ones compute, or none of the GPU's."""


class Ready(_Message, frozen=True):
    """Every model is loaded and warm, or was reported as failed."""

    models: list[LoadedModel]


class Heartbeat(_Message, frozen=True):
    """The engine loop is alive; sent after every `heartbeat_s` without another frame."""

    stats: list[EngineStats]


class EngineFailed(_Message, frozen=True):
    """The engine cannot go on (bad model folder, out of memory); it exits after this."""

    code: str
    message: str


ToEngine = EngineConfig | Submit | Abort | Shutdown
FromEngine = Loading | LoadFailed | Ready | StepOutputs | Heartbeat | EngineFailed
