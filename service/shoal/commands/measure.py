"""How fast a loaded model answers here, and what: the real engine, in this process."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.engine.core import EngineCore
    from shoal.protocol.messages import EngineConfig, TokenLogprobs
    from shoal.protocol.params import OutputParams
    from shoal.protocol.step import LoadedRunner

DECODE_ROWS = (1, 8, 32)
PROMPT_TOKENS = 16
PREFILL_TOKENS = 512
SECONDS = 0.5
"""For each of the four measurements."""

_seq_ids, _seeds = itertools.count(1), itertools.count(1)


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second."""

    prefill: float
    decode: dict[int, float]
    """By the number of sequences in a batch, all of them together."""


def answer(
    core: EngineCore, prompt: list[int], num_new: int, num_top: int
) -> tuple[list[TokenLogprobs], list[int]]:
    """The reports on prompt[1:], each with the `num_top` likeliest tokens of its position, and a
    greedy answer of `num_new` tokens."""
    from shoal.protocol.params import OutputParams

    _submit(core, prompt, num_new, OutputParams(prompt_logprobs=num_top))
    reports: list[TokenLogprobs] = []
    token_ids: list[int] = []
    while core.has_work:
        if (outputs := core.step()) is not None:
            token_ids += [token_id for _, new in outputs.tokens() for token_id in new]
            for found in outputs.prompt_logprobs.values():
                reports += [report for report in found if report is not None]
    return reports, token_ids


def embed(loaded: LoadedRunner, prompt: list[int], config: EngineConfig) -> bytes:
    """The prompt's embedding, float32 little-endian, of a runner without an engine. Raises
    ModelFolderError where its numbers are none."""
    from shoal.errors import ModelFolderError
    from shoal.protocol.params import OutputParams, SamplingParams, StopParams
    from shoal.protocol.step import NewRow, StepPlan

    seq_id = next(_seq_ids)
    row = NewRow(
        seq_id,
        prompt,
        len(prompt),
        list(range(-(-len(prompt) // config.block_size))),
        SamplingParams(seed=0),
        StopParams(max_tokens=0),
        OutputParams(embedding=True),
    )
    plan = StepPlan([seq_id], [0], [len(prompt)], [row], released=[seq_id - 1])  # the last call's
    result = loaded.runner.run(plan)
    if seq_id not in result.embeddings:
        raise ModelFolderError(f"no embedding was made: {result.errors.get(seq_id, 'no reason')}")
    return result.embeddings[seq_id]


def measure_embedding_speed(loaded: LoadedRunner, config: EngineConfig) -> Speed:
    """Of one text after the other."""
    model = loaded.loaded
    length = min(PREFILL_TOKENS, model.max_model_len, loaded.num_blocks * config.block_size)
    prompt = [index % model.vocab_size for index in range(length)]
    num_tokens, since = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - since) < SECONDS or num_tokens == 0:
        embed(loaded, prompt, config)
        num_tokens += length
    return Speed(num_tokens / elapsed, {})


def measure_speed(core: EngineCore, config: EngineConfig) -> Speed:
    """Prefill of one prompt after the other, and decoding in batches as large as the KV cache and
    `max_batch_size` allow. `core`: of one model."""
    (model,), (stats,) = core.loaded_models, core.stats()
    capacity = stats.num_blocks * config.block_size
    length = min(model.max_model_len, capacity)
    decode: dict[int, float] = {}
    for rows in DECODE_ROWS:
        room = min(capacity // rows, length) - config.block_size
        if rows <= config.max_batch_size and room > PROMPT_TOKENS:
            decode[rows] = _decode(core, rows, room - PROMPT_TOKENS)
    return Speed(_prefill(core, min(PREFILL_TOKENS, length - 1)), decode)


def _decode(core: EngineCore, rows: int, num_new: int) -> float:
    """The sequences begin together, and anew when they have come to their end."""
    num_tokens, elapsed = 0, 0.0
    while elapsed < SECONDS:
        seq_ids = [_submit(core, _made_up(core, PROMPT_TOKENS), num_new) for _ in range(rows)]
        waiting = set(seq_ids)
        while waiting and (outputs := core.step()) is not None:
            waiting -= {*outputs.seq_ids, *outputs.finished}
        since = time.perf_counter()
        while core.has_work and elapsed + time.perf_counter() - since < SECONDS:
            outputs = core.step()
            num_tokens += sum(len(new) for _, new in outputs.tokens()) if outputs else 0
        elapsed += time.perf_counter() - since
        core.abort(seq_ids)
        _finish(core)
    return num_tokens / elapsed


def _prefill(core: EngineCore, length: int) -> float:
    num_tokens, since = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - since) < SECONDS or num_tokens == 0:
        _submit(core, _made_up(core, length), 1)
        _finish(core)
        num_tokens += length
    return num_tokens / elapsed


def _made_up(core: EngineCore, length: int) -> list[int]:
    """Token ids that no other prompt begins with."""
    vocab_size = core.loaded_models[0].vocab_size
    start = next(_seeds)
    return [(start * 7919 + index * 104_729) % vocab_size for index in range(length)]


def _submit(
    core: EngineCore, prompt: list[int], num_new: int, output: OutputParams | None = None
) -> int:
    from shoal.protocol.messages import Submit
    from shoal.protocol.params import OutputParams, SamplingParams, StopParams

    message = Submit(
        seq_id=next(_seq_ids),
        model=core.loaded_models[0].name,
        prompt_token_ids=prompt,
        sampling=SamplingParams(seed=0, temperature=0.0),
        stop=StopParams(max_tokens=num_new),
        output=output or OutputParams(),
        use_prefix_cache=False,
    )
    core.add(message)
    return message.seq_id


def _finish(core: EngineCore) -> None:
    while core.has_work:
        core.step()
