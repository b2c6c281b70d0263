"""How fast a loaded model answers here: the real engine on made-up token ids, two seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.engine.core import EngineCore
    from shoal.protocol.messages import EngineConfig
    from shoal.protocol.step import LoadedRunner

DECODE_ROWS = (1, 8, 32)
PROMPT_TOKENS = 16
PREFILL_TOKENS = 512
SECONDS = 0.5
"""For each of the four measurements."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second."""

    prefill: float
    decode: dict[int, float]
    """By the number of sequences in a batch, all of them together."""


def measure_speed(loaded: LoadedRunner, config: EngineConfig) -> Speed:
    """Prefill of one prompt after the other, and decoding in batches as large as the KV cache and
    `max_batch_size` allow."""
    from shoal.engine.core import EngineCore

    core = EngineCore({loaded.loaded.name: loaded}, config, time.monotonic)
    (model,) = core.loaded_models
    length = min(model.max_model_len, loaded.num_blocks * config.block_size)
    prompt = min(PROMPT_TOKENS, length // 2)
    decode: dict[int, float] = {}
    first_id = 1
    for rows in DECODE_ROWS:
        room = loaded.num_blocks * config.block_size // rows
        if rows > config.max_batch_size or room < 4 * config.block_size:
            continue
        num_new = min(room, length) - prompt - config.block_size
        decode[rows] = _decode(core, model.name, range(first_id, first_id + rows), prompt, num_new)
        first_id += rows
    prefill = _prefill(core, model.name, first_id, min(PREFILL_TOKENS, length - 1))
    return Speed(prefill, decode)


def _decode(core: EngineCore, name: str, seq_ids: range, prompt: int, num_new: int) -> float:
    """The sequences begin together, and anew when they have come to their end."""
    num_tokens, elapsed = 0, 0.0
    while elapsed < SECONDS:
        for seq_id in seq_ids:
            _submit(core, name, seq_id, prompt, max(num_new, 2))
        started: set[int] = set()
        while len(started) < len(seq_ids):
            started.update(outputs.seq_ids if (outputs := core.step()) else seq_ids)
        since = time.perf_counter()
        while core.has_work and elapsed + time.perf_counter() - since < SECONDS:
            outputs = core.step()
            num_tokens += len(outputs.seq_ids) if outputs else 0
        elapsed += time.perf_counter() - since
        core.abort(list(seq_ids))
        _finish(core)
    return num_tokens / elapsed


def _prefill(core: EngineCore, name: str, seq_id: int, length: int) -> float:
    num_tokens, since = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - since) < SECONDS or num_tokens == 0:
        _submit(core, name, seq_id, length, 1)
        _finish(core)
        num_tokens += length
    return num_tokens / elapsed


def _submit(core: EngineCore, name: str, seq_id: int, prompt: int, num_new: int) -> None:
    from shoal.protocol.messages import Submit
    from shoal.protocol.params import SamplingParams, StopParams

    vocab_size = core.loaded_models[0].vocab_size
    token_ids = [(seq_id * 7919 + index * 104_729) % vocab_size for index in range(prompt)]
    sampling = SamplingParams(seed=seq_id, temperature=0.0)
    stop = StopParams(max_tokens=num_new)
    core.add(Submit(seq_id, name, token_ids, sampling, stop, use_prefix_cache=False))


def _finish(core: EngineCore) -> None:
    while core.has_work:
        core.step()
