"""The engine: every model's scheduler and runner, stepped one at a time.

A step is plan, run, apply, for the model whose turn it is. Knows no process, socket or text:
`process.py` and `bridge/local.py` call it. Read `scheduler.py` next.
"""

import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from shoal.engine.adapters import EngineAdapters
from shoal.engine.applied import Applied
from shoal.engine.arbiter import Arbiter
from shoal.engine.block_pool import ensure
from shoal.engine.cpu_meter import CpuMeter
from shoal.engine.kv_budget import Account, KVBudget
from shoal.engine.limits import Limits
from shoal.engine.preparing import Preparing
from shoal.engine.progress import ProgressReports
from shoal.engine.scheduler import Scheduler
from shoal.engine.stats import SpeedMeter
from shoal.engine.stopping import failed
from shoal.protocol.messages import (
    AdapterLoaded,
    AdapterSource,
    AdapterUnloaded,
    EngineConfig,
    EngineStats,
    LoadedModel,
    StepOutputs,
    Submit,
)
from shoal.protocol.step import LoadedRunner, StepPlan, StepResult

_log = logging.getLogger(__name__)

_QUEUE_SPEED_LEAST_S = 0.2
"""Seconds of steps beside a queue before its speed is told."""
_NO_PLAN, _NOTHING_APPLIED, _NO_RESULT = StepPlan(), Applied(), StepResult([])


class EngineCore:
    """All models of one process. Not thread-safe: one loop owns it."""

    def __init__(
        self,
        models: Mapping[str, LoadedRunner],
        config: EngineConfig,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """`models`: by name, the first ones. `clock`: seconds, monotonic. `cpu_clock`: CPU seconds
        of all threads of the process."""
        self._clock = clock
        self.wake: Callable[[], None] = lambda: None
        """Called, perhaps in another thread, when an idle engine has work again by itself."""
        self._cpu = CpuMeter(cpu_clock)
        self._config = config
        num_models = max(1, len(config.models), len(models))
        self._budget = KVBudget(config.kv_cache_bytes, num_models)
        self._own_bytes: dict[str, int] = {}  # of models whose blocks are not shared
        self._models: dict[str, _Model] = {}
        self._arbiter = Arbiter([])
        self._unknown: list[Submit] = []  # for a model that is not served; to be refused
        self._last_words: list[StepOutputs] = []  # of models that are gone
        self._adapters = EngineAdapters()
        for name, model in models.items():
            self.add_model(name, model)

    def add_model(self, name: str, model: LoadedRunner) -> LoadedModel:
        """Serves one more model, with a share of the KV memory; returns it as the engine serves
        it."""
        self._models[name] = served = _Model(model, self._open_account(model), self._config)
        self._arbiter.add(name)
        self._adapters.add_model(name, served.scheduler, served.runner, served.preparing)
        return served.loaded

    def remove_model(self, name: str) -> None:
        """Serves a model and its adapters no more: its sequences fail. Unknown names are
        ignored."""
        if (model := self._models.pop(name, None)) is None:
            return
        if model.scheduler.has_finished:
            self._last_words.append(model.outputs())
        self._unknown += [seq.submit for seq in model.scheduler.sequences.values()]
        self._arbiter.remove(name)
        self._adapters.remove_model(name)
        if model.account is None:
            self._budget.put_in(self._own_bytes.pop(name))
        else:
            self._budget.close(model.account)

    @property
    def kv_bytes_of_one_more(self) -> int:
        """KV memory that a model which comes now would be sure of."""
        return self._budget.share_of_one_more()

    def reset_cache(self, name: str) -> int:
        """Forgets the prefix cache of a model, of all for an empty name, and what is known of its
        answers. Returns how many blocks it had."""
        models = [model for key, model in self._models.items() if name in ("", key)]
        for model in models:
            model.preparing.forget_answers()
        return sum(model.scheduler.blocks.reset_cache() for model in models)

    def _open_account(self, model: LoadedRunner) -> Account | None:
        """None for a model whose KV blocks are memory of its own."""
        if (memory := model.kv_memory) is None:
            self._own_bytes[model.loaded.name] = self._budget.take_out()
            return None
        num_blocks = -(-model.loaded.max_model_len // self._config.block_size)
        return self._budget.open(
            memory.block_bytes, num_blocks * memory.block_bytes, memory.release
        )

    @property
    def loaded_models(self) -> list[LoadedModel]:
        """As the engine serves them: `max_model_len` is the minimum of the model's own, the
        configured one and what its KV blocks hold."""
        return [model.loaded for model in self._models.values()]

    @property
    def has_work(self) -> bool:
        """Would `step` do something?"""
        for model in self._models.values():
            model.preparing.poll()
        return bool(self._unknown or self._last_words) or any(
            model.scheduler.has_work or model.scheduler.has_finished
            for model in self._models.values()
        )

    def add(self, submit: Submit) -> None:
        """Puts a sequence into its model's queue."""
        model = self._models.get(submit.model)
        if model is None:
            self._unknown.append(submit)
        elif not self._adapters.has(submit.model, submit.adapter_id):
            model.scheduler.refuse(submit.seq_id, "model_not_found")
        elif submit.sampling.grammar is not None:
            model.preparing.add(submit, self._clock(), lambda: self.wake())
        else:
            model.scheduler.add(submit, self._clock())
        if model is not None and submit.output.progress:
            model.progress.watch(submit.seq_id)

    def load_adapter(self, source: AdapterSource) -> AdapterLoaded:
        """Sequences may be added with it from now on. Raises ModelFolderError."""
        return self._adapters.load(source)

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees it once none of its sequences is left, see `take_unloaded`."""
        self._adapters.unload(adapter_id)

    def take_unloaded(self) -> list[AdapterUnloaded]:
        """Adapters that were to be unloaded and are free since the last call."""
        return self._adapters.take_unloaded()

    def abort(self, seq_ids: list[int]) -> None:
        """Ends sequences without an answer; unknown and finished ids are ignored."""
        for model in self._models.values():
            for seq_id in seq_ids:
                model.preparing.abort(seq_id)
                model.scheduler.abort(seq_id)

    def step(self) -> StepOutputs | None:
        """Steps one model, or reports what finished without a step. None if idle."""
        if self._last_words:
            return self._last_words.pop()
        if self._unknown:
            return _refuse_model(self._unknown.pop())
        self._cpu.begin()
        now = self._clock()
        for model in self._models.values():
            model.scheduler.expire(now)
        for model in self._models.values():
            if model.scheduler.has_finished:
                return model.outputs()
        ready = [name for name, model in self._models.items() if model.scheduler.has_work]
        if not ready:
            self._cpu.rest()
            return None
        name = self._arbiter.pick(ready)
        outputs = self._models[name].step(self._clock, self._cpu.take, self._make_way)
        self._arbiter.charge(name, outputs.step_s)
        if not self.has_work:
            self._cpu.rest()
        return outputs

    def _make_way(self) -> None:
        """A model is short of blocks that are its by right: the others give up their excess."""
        for model in self._models.values():
            model.scheduler.make_way()

    def stats(self) -> list[EngineStats]:
        """Numbers of every model now."""
        return [model.stats() for model in self._models.values()]

    def check(self) -> None:
        """Raises InvariantError if any model's bookkeeping is wrong."""
        for model in self._models.values():
            model.scheduler.check()


class _Model:
    """One model: its scheduler, its runner and its numbers."""

    def __init__(self, model: LoadedRunner, account: Account | None, config: EngineConfig) -> None:
        """`account`: of the KV memory that models share; None = its blocks are its own."""
        num_blocks = model.num_blocks
        sure_blocks = num_blocks if account is None else min(num_blocks, account.share)
        self.loaded = loaded = _fit(model.loaded, sure_blocks, config)
        self.runner = model.runner
        self.account = account
        if account is not None:
            account.least = -(-loaded.max_model_len // config.block_size)
        self._speed = SpeedMeter()
        self._queue_speed = SpeedMeter(_QUEUE_SPEED_LEAST_S)  # while sequences wait
        self.scheduler = Scheduler(
            Limits(
                num_blocks=num_blocks,
                block_size=config.block_size,
                max_batch_size=config.max_batch_size,
                token_budget=(
                    max(config.token_budget, loaded.max_model_len)
                    if loaded.whole_prompt
                    else config.token_budget
                ),
                max_model_len=loaded.max_model_len,
                vocab_size=loaded.vocab_size,
                max_preemptions=config.max_preemptions,
                prefix_cache=config.prefix_cache and not loaded.whole_prompt,
                whole_prompts=loaded.whole_prompt,
                drafts=config.drafts and model.may_go_back,
                lookup_drafts=loaded.weight_bytes >= config.draft_weight_bytes,
            ),
            account,
        )
        self.preparing = Preparing(self.scheduler, model.runner)
        self.progress = ProgressReports(self.scheduler.sequences)

    def step(
        self,
        clock: Callable[[], float],
        take_cpu_s: Callable[[], float],
        make_way: Callable[[], None],
    ) -> StepOutputs:
        """Plan, run, apply. `make_way` is called when other models use this one's share. An
        exception of the runner fails the sequences of this step only; InvariantError afterwards
        means that the bookkeeping is damaged."""
        scheduler = self.scheduler
        started_s = clock()
        plan = scheduler.plan(started_s)
        if self.account is not None and self.account.is_short:
            make_way()
            if not plan.seq_ids:
                released, plan = plan.released, scheduler.plan(started_s)
                plan.released = released + plan.released
                ensure(bool(plan.seq_ids), "a model cannot get the blocks of its share")
        try:
            result = self.runner.run(plan)
        except Exception:  # whatever a backend raises: this step fails, the engine continues
            _log.exception("step of %s failed, %d rows", self.loaded.name, len(plan.seq_ids))
            scheduler.fail_step(plan, "internal_error")
            scheduler.check()
            return self.outputs(plan, step_s=clock() - started_s, cpu_s=take_cpu_s())
        ended_s, cpu_s = clock(), take_cpu_s()
        applied = scheduler.apply(plan, result, ended_s, cpu_s)
        num_kept = plan.num_tokens - plan.num_drafted + applied.num_accepted
        self._speed.record(num_kept, started_s, ended_s, has_more=scheduler.has_work)
        if is_queued := scheduler.num_waiting > 0:
            self._queue_speed.record(num_kept, started_s, ended_s, has_more=is_queued)
        outputs = self.outputs(plan, applied, result, step_s=ended_s - started_s, cpu_s=cpu_s)
        progress = self.progress.take(ended_s, self._speed.tokens_per_s)
        return msgspec.structs.replace(outputs, progress=progress) if progress else outputs

    def outputs(
        self,
        plan: StepPlan = _NO_PLAN,
        applied: Applied = _NOTHING_APPLIED,
        result: StepResult = _NO_RESULT,
        step_s: float = 0.0,
        cpu_s: float = 0.0,
    ) -> StepOutputs:
        """One step's outputs, and the sequences that finished since the last ones."""
        return StepOutputs(
            model=self.loaded.name,
            seq_ids=applied.seq_ids,
            token_ids=applied.token_ids,
            batch_size=len(plan.seq_ids),
            num_tokens=plan.num_tokens,
            step_s=step_s,
            stats=self.stats(),
            logprobs=result.logprobs,
            prompt_logprobs=applied.prompt_logprobs,
            started=applied.started,
            further=applied.further,
            finished=self.scheduler.take_finished(),
            traces=result.traces,
            cpu_s=cpu_s,
            seq_cpu_s=self.scheduler.take_cpu_s(),
            embeddings=applied.embeddings,
            num_drafted=plan.num_drafted,
            num_accepted=applied.num_accepted,
        )

    def stats(self) -> EngineStats:
        scheduler = self.scheduler
        pool = scheduler.blocks.pool
        return EngineStats(
            model=self.loaded.name,
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            waiting_tokens=scheduler.num_waiting_tokens,
            num_blocks=pool.num_used + pool.num_available,
            num_used_blocks=pool.num_used,
            num_preemptions=scheduler.num_preemptions,
            tokens_per_s=self._speed.tokens_per_s,
            num_yields=scheduler.num_yields,
            queue_tokens_per_s=self._queue_speed.tokens_per_s,
        )


def _fit(loaded: LoadedModel, num_blocks: int, config: EngineConfig) -> LoadedModel:
    """A sequence must fit the blocks that the model is sure of, or it could never finish."""
    lengths = [loaded.max_model_len, num_blocks * config.block_size]
    if config.max_model_len > 0:
        lengths.append(config.max_model_len)
    return msgspec.structs.replace(loaded, max_model_len=min(lengths))


def _refuse_model(submit: Submit) -> StepOutputs:
    """The HTTP side checks the name before; this is a second guard."""
    return StepOutputs(
        model=submit.model,
        seq_ids=[],
        token_ids=[],
        batch_size=0,
        num_tokens=0,
        step_s=0.0,
        stats=EngineStats(submit.model, 0, 0, 0, 0, 0, 0, 0.0),
        finished={submit.seq_id: failed("model_not_found")},
    )
