"""A real model in an engine, and what its sequences say."""

import time
from functools import cache
from typing import Any

from shoal.engine.core import EngineCore
from shoal.protocol.messages import EngineConfig, Finished, ModelSource, Submit, TokenLogprobs
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.runner.load import load_runner
from shoal.text.text_model import TextModel, load_text_model


class Asked:
    """A model in an engine, and what its sequences said."""

    def __init__(self, source: ModelSource, **config: Any) -> None:
        self.config = EngineConfig(models=(source,), **{"draft_weight_bytes": 0, **config})
        loaded = load_runner(source, self.config, self.config.kv_cache_bytes, lambda _: None)
        self.core = EngineCore({source.name: loaded}, self.config, time.monotonic)
        self.name = source.name
        self.num_steps = 0
        self.num_accepted = 0
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.finished: dict[int, Finished] = {}

    def forget(self) -> None:
        """What was said; its ids may be used again."""
        self.tokens, self.logprobs, self.finished = {}, {}, {}

    def run(self, *submits: Submit) -> dict[int, list[int]]:
        """The tokens of these."""
        for submit in submits:
            self.core.add(submit)
        deadline = time.monotonic() + 1800
        while not self.finished.keys() >= {submit.seq_id for submit in submits}:
            assert time.monotonic() < deadline, "the engine does not come to an end"
            self.take_step()
        return {submit.seq_id: self.tokens.get(submit.seq_id, []) for submit in submits}

    def take_step(self) -> None:
        """One step, and what it says."""
        if not self.core.has_work:  # a grammar is being compiled
            time.sleep(0.001)
        elif (outputs := self.core.step()) is not None:
            self.core.check()
            self.num_steps += outputs.num_tokens > 0
            self.num_accepted += outputs.num_accepted
            for seq_id, token_ids in outputs.tokens():
                self.tokens.setdefault(seq_id, []).extend(token_ids)
            for seq_id, logprobs in outputs.logprobs.items():
                self.logprobs.setdefault(seq_id, []).append(logprobs)
            self.finished.update(outputs.finished)


def make_submit(
    model: TextModel,
    seq_id: int,
    *,
    grammar: str | None,
    max_tokens: int = 300,
    logprobs: int | None = None,
    stop: dict[str, Any] | None = None,
    **sampling: Any,
) -> Submit:
    """A different prompt and seed for each id."""
    return Submit(
        seq_id,
        model.name,
        model.tokenizer.encode(f"Number {seq_id} " + "of many places " * (seq_id % 5)),
        SamplingParams(**{"seed": seq_id, "temperature": 1.5, "grammar": grammar, **sampling}),
        StopParams(max_tokens, end_token_ids=model.end_token_ids, **(stop or {})),
        OutputParams(logprobs=logprobs),
    )


@cache
def text_of(source: ModelSource) -> TextModel:
    """Its text side."""
    return load_text_model(source)
