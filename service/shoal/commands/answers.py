"""Greedy answers of a model in this process, without a server: what a model says before and after
it was taught."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

MAX_TOKENS = 64
_ADAPTER_ID = 1


def greedy_answers(
    model: Path, adapter: Path | None, prompts: Sequence[Sequence[int]]
) -> list[str]:
    """The text that a model, with the adapter of a folder or as it is, adds to each prompt, given
    as token ids: at most MAX_TOKENS tokens. Raises ShoalError."""
    from shoal.engine.core import EngineCore
    from shoal.protocol.messages import AdapterSource, EngineConfig, ModelSource, Submit
    from shoal.protocol.params import SamplingParams, StopParams
    from shoal.runner.load import give_back_memory, load_runner
    from shoal.text.text_model import load_text_model

    source = ModelSource("model", str(model))
    text = load_text_model(source)
    config = EngineConfig(models=(source,), max_batch_size=max(1, len(prompts)))
    loaded = load_runner(source, config, config.kv_cache_bytes, lambda progress: None)
    core = EngineCore({source.name: loaded}, config, time.monotonic)
    if adapter is not None:
        core.load_adapter(AdapterSource("adapter", source.name, str(adapter), _ADAPTER_ID))
    most = core.loaded_models[0].max_model_len
    answers: dict[int, list[int]] = {}
    for seq_id, prompt in enumerate(prompts, 1):
        answers[seq_id] = []
        submit = Submit(
            seq_id=seq_id,
            model=source.name,
            prompt_token_ids=list(prompt),
            sampling=SamplingParams(temperature=0.0, seed=0),
            stop=StopParams(
                max_tokens=min(MAX_TOKENS, most - len(prompt)), end_token_ids=text.end_token_ids
            ),
            adapter_id=_ADAPTER_ID if adapter else 0,
        )
        core.add(submit)
    while core.has_work:
        if (outputs := core.step()) is not None:
            for seq_id, token_ids in outputs.tokens():
                answers[seq_id] += token_ids
    del core, loaded
    give_back_memory()
    return [text.tokenizer.decode(token_ids).strip() for token_ids in answers.values()]
