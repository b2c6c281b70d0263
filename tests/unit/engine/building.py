"""Small builders for engine tests: a sequence, a core on fake runners, a clock one can turn."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from shoal.engine.core import EngineCore
from shoal.protocol.messages import EngineConfig, Finished, Started, StepOutputs, Submit
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import LoadedRunner
from tests.fakes.fake_runner import FakeRunner, loaded_model


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_submit(
    seq_id: int = 1,
    prompt: Iterable[int] = (1, 2, 3),
    max_tokens: int = 4,
    *,
    model: str = "fake",
    seed: int = 0,
    temperature: float = 1.0,
    output: OutputParams | None = None,
    logit_bias: tuple[tuple[int, float], ...] = (),
    grammar: str | None = None,
    **fields: Any,
) -> Submit:
    """Fields of StopParams and of Submit by name."""
    stop = {
        name: fields.pop(name)
        for name in ("min_tokens", "end_token_ids", "stop_token_ids", "deadline_s")
        if name in fields
    }
    return Submit(
        seq_id=seq_id,
        model=model,
        prompt_token_ids=list(prompt),
        sampling=SamplingParams(
            seed=seed, temperature=temperature, logit_bias=logit_bias, grammar=grammar
        ),
        stop=StopParams(max_tokens=max_tokens, **stop),
        output=output or OutputParams(),
        **fields,
    )


@dataclass
class Heard:
    """All that an engine said about its sequences."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    started: dict[int, Started] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    embeddings: dict[int, bytes] = field(default_factory=dict)
    frames: list[StepOutputs] = field(default_factory=list)

    def take(self, outputs: StepOutputs) -> None:
        self.frames.append(outputs)
        for seq_id, token_ids in outputs.tokens():
            assert seq_id not in self.finished, "a token after the last word"
            self.tokens.setdefault(seq_id, []).extend(token_ids)
        for seq_id, finished in outputs.finished.items():
            assert seq_id not in self.finished, "two last words"
            self.finished[seq_id] = finished
        assert outputs.embeddings.keys() <= outputs.finished.keys(), "a vector before the end"
        self.embeddings |= outputs.embeddings
        for seq_id, started in outputs.started.items():
            assert seq_id not in self.started, "started twice"
            self.started[seq_id] = started


class Engine:
    """A core on fake runners, checked after every step."""

    def __init__(
        self,
        num_blocks: int = 64,
        *,
        models: Iterable[str] = ("fake",),
        max_model_len: int = 256,
        runner: Callable[[int, int], FakeRunner] = FakeRunner,
        is_encoder: bool = False,
        **config: Any,
    ) -> None:
        config = {"block_size": 4, "draft_weight_bytes": 0, **config}
        self.clock = Clock()
        self.heard = Heard()
        self.config = EngineConfig(models=(), **config)
        self.runners = {name: runner(num_blocks, self.config.block_size) for name in models}
        self.core = EngineCore(
            {
                name: LoadedRunner(
                    fake,
                    loaded_model(name, max_model_len=max_model_len, is_encoder=is_encoder),
                    num_blocks,
                )
                for name, fake in self.runners.items()
            },
            self.config,
            self.clock,
            partial(next, count()),  # a second of CPU time a step
        )

    @property
    def runner(self) -> FakeRunner:
        return next(iter(self.runners.values()))

    def add(self, *submits: Submit) -> None:
        for submit in submits:
            self.core.add(submit)

    def step(self) -> StepOutputs | None:
        outputs = self.core.step()
        self.core.check()
        if outputs is not None:
            self.heard.take(outputs)
        return outputs

    def run(self, *submits: Submit, max_steps: int = 5000) -> Heard:
        """Adds these, steps until idle, and returns all that was heard so far."""
        self.add(*submits)
        for _ in range(max_steps):
            if not self.core.has_work:
                break
            outputs = self.step()
            assert outputs is not None, "work, but no step"
        assert not self.core.has_work, "the engine does not come to an end"
        assert all(stats.num_used_blocks == 0 for stats in self.core.stats())
        return self.heard
