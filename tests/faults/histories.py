"""Random histories of an engine: who asks for what and when, what is aborted, what fails.

A history is a pure function of its seed. It runs on a shared memory budget of a few blocks, is
checked after every step, and every answer must be what the sequence says alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from shoal.engine.core import EngineCore
from shoal.protocol.messages import AdapterSource, EngineConfig, Submit
from shoal.protocol.params import FinishReason
from shoal.protocol.step import KVMemory, LoadedRunner, StepPlan
from tests.fakes.fake_runner import FakeRunner, loaded_model, solo_output
from tests.unit.engine.building import Heard, make_submit

BLOCK_BYTES = 100
MAX_STEPS = 4000
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 0.2}


@dataclass
class Tally:
    """What happened in some histories: a test that met none of it has tested nothing."""

    steps: int = 0
    preemptions: int = 0
    yields: int = 0
    overloaded: int = 0
    whole: int = 0
    codes: dict[str, int] = field(default_factory=dict)


class History:
    """One history with models of fake runners."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        names = ["m0", "m1", "m2"][: rng.choice((1, 1, 2, 3))]
        self.block_size = rng.choice((1, 2, 4))
        num_blocks = len(names) * rng.randint(4, 16)
        config = EngineConfig(
            models=(),
            block_size=self.block_size,
            max_batch_size=rng.randint(1, 12),
            token_budget=rng.randint(1, 40),
            prefix_cache=rng.random() < 0.7,
            max_preemptions=rng.choice((0, 1, 8, 8)),
            kv_cache_bytes=num_blocks * BLOCK_BYTES,
        )
        self.bad_rows: set[int] = set()
        self.failed: set[int] = set()
        self.fails_next = False
        self.asked: dict[int, Submit] = {}
        self.aborted: set[int] = set()
        self.heard = Heard()
        self.now = 0.0
        self.max_preemptions = config.max_preemptions
        ticks = count()
        self.core = EngineCore(
            {name: self._model(name, num_blocks) for name in names},
            config,
            lambda: self.now + next(ticks) / 1000,
            lambda: 0.0,
        )
        self.names = names
        self.context = {model.name: model.max_model_len for model in self.core.loaded_models}
        self.adapters = {name: [0] for name in names}
        for adapter_id, name in enumerate(names * 2, 1):
            self.core.load_adapter(AdapterSource(f"x{adapter_id}", name, "a", adapter_id))
            self.adapters[name].append(adapter_id)

    def _model(self, name: str, num_blocks: int) -> LoadedRunner:
        runner = FakeRunner(
            num_blocks, self.block_size, before_step=self._before_step, row_error=self._row_error
        )
        memory = KVMemory(BLOCK_BYTES, lambda block_ids: None)
        return LoadedRunner(runner, loaded_model(name, max_model_len=64), num_blocks, memory)

    def _before_step(self, plan: StepPlan) -> None:
        if self.fails_next:
            self.fails_next = False
            self.failed.update(plan.seq_ids)
            raise RuntimeError("the whole step fails")

    def _row_error(self, seq_id: int, token_ids: list[int]) -> str | None:
        return "numerical_error" if seq_id in self.bad_rows else None

    # --- what happens ------------------------------------------------------------------------

    def run(self, tally: Tally) -> None:
        for _ in range(self.rng.randint(5, 30)):
            self._happen()
            for _ in range(self.rng.randint(0, 4)):
                self.step(tally)
        for _ in range(MAX_STEPS):
            if not self.core.has_work:
                break
            assert self.step(tally), "work, and no step: a deadlock"
        assert not self.core.has_work, "the engine does not come to an end"
        self._check_end(tally)

    def _happen(self) -> None:
        chance, rng = self.rng.random(), self.rng
        if chance < 0.75:
            for _ in range(rng.choice((1, 1, 2, 5))):
                self._ask()
        elif chance < 0.88 and self.asked:
            seq_id = rng.choice(list(self.asked))
            self.core.abort([seq_id])
            if seq_id not in self.heard.finished:
                self.aborted.add(seq_id)
        elif chance < 0.92 and self.asked:
            self.bad_rows.add(rng.choice(list(self.asked)))
        elif chance < 0.95:
            self.fails_next = True
        elif chance < 0.97:
            self.core.reset_cache("")
        else:
            self.now += 3.0

    def _ask(self) -> None:
        rng = self.rng
        model, tenant = rng.choice(self.names), rng.choice("aaaabcd")
        prompt = [5] * rng.randint(0, 12) + [rng.randint(0, 3) for _ in range(rng.randint(1, 6))]
        submit = make_submit(
            len(self.asked),
            prompt,
            rng.randint(0, 24),
            model=model,
            tenant=tenant,
            weight=WEIGHTS[tenant],
            seed=rng.randint(0, 3),
            temperature=rng.choice((0.0, 1.0)),
            adapter_id=rng.choice(self.adapters[model]),
            grammar=rng.choice((None, None, "forcing")),
            priority=rng.choice((0, 0, -2, 3)),
            stop_token_ids=tuple(rng.sample(range(64), rng.randint(0, 3))),
            deadline_s=rng.choice((None, None, None, 4.0)),
            use_prefix_cache=rng.random() < 0.8,
        )
        self.asked[submit.seq_id] = submit
        self.core.add(submit)

    def step(self, tally: Tally) -> bool:
        """Is there something to do? Checks that used + free = total, that no block has two owners
        and that no sequence is lost."""
        outputs = self.core.step()
        self.core.check()
        tally.steps += 1
        if outputs is not None:
            self.heard.take(outputs)
        return outputs is not None

    # --- what must hold at the end -----------------------------------------------------------

    def _check_end(self, tally: Tally) -> None:
        for stats in self.core.stats():
            assert stats.num_used_blocks == stats.num_running == stats.num_waiting == 0, "a leak"
            tally.preemptions += stats.num_preemptions
            tally.yields += stats.num_yields
        assert self.heard.finished.keys() | self.aborted == self.asked.keys(), "one never ended"
        for seq_id, submit in self.asked.items():
            self._check_answer(seq_id, submit, tally)

    def _check_answer(self, seq_id: int, submit: Submit, tally: Tally) -> None:
        room = max(0, self.context[submit.model] - len(submit.prompt_token_ids))
        whole = solo_output(
            submit.prompt_token_ids,
            min(submit.stop.max_tokens, room),
            submit.sampling,
            stop_ids=submit.stop.stop_token_ids,
            adapter_id=submit.adapter_id,
        )
        tokens = self.heard.tokens.get(seq_id, [])
        assert tokens == whole[: len(tokens)], "not what it says alone"
        finished = self.heard.finished.get(seq_id)
        if finished is None:
            return
        if finished.reason is not FinishReason.ERROR:
            assert finished.stop_reason == "max_time" or tokens == whole, "it ended too early"
            tally.whole += 1
            return
        code = finished.error_code or ""
        tally.codes[code] = tally.codes.get(code, 0) + 1
        causes: dict[str, Callable[[], bool]] = {
            "numerical_error": lambda: seq_id in self.bad_rows,
            "internal_error": lambda: seq_id in self.failed,
            "request_timeout": lambda: submit.stop.deadline_s is not None,
            "server_is_overloaded": lambda: self.max_preemptions <= 8,
            "context_length_exceeded": lambda: (
                len(submit.prompt_token_ids) + min(submit.stop.max_tokens, 1)
                > self.context[submit.model]
            ),
        }
        assert causes[code](), f"{code} without a cause"


def run_histories(seeds: Any) -> Tally:
    tally = Tally()
    for seed in seeds:
        try:
            History(seed).run(tally)
        except BaseException as error:
            error.add_note(f"history {seed}")
            raise
    return tally
