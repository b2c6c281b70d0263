"""The loop over a network of one matrix: the same bits on resuming, early stop, clock, signals."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from shoal.train.config import RecipeError
from shoal.train.finetune.interrupts import Interrupted
from shoal.train.finetune.loop import HELD_OUT, End, Loop
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.pack import Pack
from shoal.train.finetune.plan import Plan
from shoal.train.finetune.rows import EncodedRow
from shoal.train.progress import StepReport

VOCAB_SIZE = 8
PLAN = Plan(
    rows=12,
    steps=12,
    epochs=4.0,
    batch_size=4,
    lr=0.3,
    warmup_steps=2,
    weight_decay=0.01,
    clip=1.0,
    evaluate_every=3,
    patience=2,
    seq_len=16,
    pack_tokens=16,
    eval_share=0.1,
    seed=1,
    lora=None,
)


class Bigrams:
    """The logits of the next token are a row of a matrix."""

    def __init__(self) -> None:
        start = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
        self.table = (0.1 * start).requires_grad_()

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        return {"table": self.table}

    def _nats(self, pack: Pack) -> tuple[Tensor, int]:
        learned = torch.from_numpy(pack.targets >= 0)
        ids = torch.from_numpy(pack.token_ids)[learned].long()
        targets = torch.from_numpy(pack.targets)[learned].long()
        return functional.cross_entropy(self.table[ids], targets, reduction="sum"), len(ids)

    def backward(self, pack: Pack, scale: float) -> float:
        nats, _ = self._nats(pack)
        (scale * nats).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(nats.detach())

    def nats(self, pack: Pack) -> tuple[float, int]:
        with torch.no_grad():
            nats, count = self._nats(pack)
        return float(nats), count


def rows(count: int, seed: int = 0, stride: int = 1) -> list[EncodedRow]:
    """Counting upwards, mostly."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        ids = (random.integers(VOCAB_SIZE) + stride * np.arange(9)) % VOCAB_SIZE
        made.append(EncodedRow(ids.astype(np.int32), np.ones(9, np.bool_), f"line {index}"))
    return made


def loop_in(folder: Path, plan: Plan = PLAN, observer: Observer | None = None) -> Loop:
    folder.mkdir(exist_ok=True)
    held_out = rows(4, seed=9)
    return Loop(Bigrams(), rows(plan.rows), held_out, plan, folder, observer or Observer())


def table_of(loop: Loop) -> Tensor:
    return loop.network.parameters["table"].detach()


def events_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_logs_every_step(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    loop = loop_in(tmp_path, observer=Observer(on_step=reports.append))
    end = loop.run()
    assert end == End(12, "", loop.progress.held_out[-1][1][HELD_OUT])
    assert [report.step for report in reports] == list(range(1, 13))
    assert loop.progress.losses[-1][1] < loop.progress.losses[0][1]
    steps = [event for event in events_of(tmp_path) if "loss" in event]
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert set(steps[0]) == {
        "step", "epoch", "tokens", "loss", "lr", "grad_norm", "tokens_per_s",
    }  # fmt: skip
    measured = [event["step"] for event in events_of(tmp_path) if "held_out_loss" in event]
    assert measured == [0, 3, 6, 9, 12]
    assert reports[-1].share_done == 1.0
    assert reports[-1].tokens == loop.progress.tokens == 12 * 4 * 9


def test_the_loss_is_the_mean_over_the_learned_tokens(tmp_path: Path) -> None:
    plan = replace(PLAN, rows=4, steps=1, epochs=1.0, patience=0)
    loop = loop_in(tmp_path, plan)
    expected = []
    for row in rows(4):
        ids = torch.from_numpy(row.ids).long()
        expected.append(functional.cross_entropy(table_of(loop)[ids[:-1]], ids[1:]))
    mean = float(torch.stack(expected).mean())
    loop.run()
    assert loop.progress.losses[0][1] == pytest.approx(mean, rel=1e-5)


class StopAt:
    """Sends this process a signal after a step, as Ctrl-C does."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def __call__(self, report: StepReport) -> None:
        if report.step == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 3, 4, 11])
def test_a_run_that_a_signal_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, step: int, number: signal.Signals
) -> None:
    whole = loop_in(tmp_path / "whole")
    whole.run()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = loop_in(tmp_path / "parts", observer=Observer(on_step=StopAt(step, number)))
    with pytest.raises(Interrupted, match=f"saved at step {step} of 12") as caught:
        stopped.run()
    assert caught.value.number == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    resumed = loop_in(tmp_path / "parts")
    assert resumed.resume()
    assert resumed.progress.step == step
    resumed.run()
    assert torch.equal(table_of(resumed), table_of(whole))
    assert resumed.progress.losses == whole.progress.losses
    assert resumed.progress.held_out == whole.progress.held_out
    untimed = [
        [{k: v for k, v in event.items() if k != "tokens_per_s"} for event in events_of(folder)]
        for folder in (tmp_path / "parts", tmp_path / "whole")
    ]
    assert untimed[0] == untimed[1]


def test_a_crash_after_a_checkpoint_repeats_the_steps_behind_it(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def crash(report: StepReport) -> None:
        if report.step == 8:
            raise Crash

    whole = loop_in(tmp_path / "whole")
    whole.run()
    crashed = loop_in(tmp_path / "parts", observer=Observer(on_step=crash, save_every_s=0.0))
    with pytest.raises(Crash):
        crashed.run()
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # cut by the crash
    resumed = loop_in(tmp_path / "parts")
    assert resumed.resume()
    assert 0 < resumed.progress.step < 8
    resumed.run()
    assert torch.equal(table_of(resumed), table_of(whole))
    assert [event["step"] for event in events_of(tmp_path / "parts") if "loss" in event] == list(
        range(1, 13)
    )


def overfitting(folder: Path, observer: Observer | None = None) -> Loop:
    """What is held out counts the other way round, and gets worse with every step."""
    folder.mkdir(exist_ok=True)
    plan = replace(PLAN, evaluate_every=2)
    held_out = rows(8, seed=9, stride=VOCAB_SIZE - 1)
    return Loop(Bigrams(), rows(12), held_out, plan, folder, observer or Observer())


def test_a_run_ends_when_nothing_gets_better_and_keeps_the_best_weights(tmp_path: Path) -> None:
    first = overfitting(tmp_path / "first")
    first.plan = replace(first.plan, patience=0, steps=2, epochs=2 / 3)
    first.run()
    loop = overfitting(tmp_path / "run")
    end = loop.run()
    assert loop.progress.step == 6  # measured after 2, 4 and 6
    assert end.step == 2
    assert "the weights of step 2 are kept" in end.remark
    assert end.held_out == loop.progress.held_out[1][1][HELD_OUT]
    at_2 = sum(loop.network.nats(pack)[0] for pack in loop.held_out_packs)
    count = sum(loop.network.nats(pack)[1] for pack in loop.held_out_packs)
    assert at_2 / count == pytest.approx(end.held_out)


def test_the_best_weights_survive_a_stop(tmp_path: Path) -> None:
    whole = overfitting(tmp_path / "whole")
    whole.run()
    stopped = overfitting(tmp_path / "parts", Observer(on_step=StopAt(5)))
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = overfitting(tmp_path / "parts")
    assert resumed.resume()
    assert resumed.run().step == 2
    assert torch.equal(table_of(resumed), table_of(whole))


def test_a_finished_loop_that_is_saved_needs_no_step_again(tmp_path: Path) -> None:
    loop = loop_in(tmp_path)
    loop.run()
    loop.save(is_done=True)
    again = loop_in(tmp_path)
    assert again.resume()
    assert again.run().step == 12
    assert torch.equal(table_of(again), table_of(loop))


class SlowBigrams(Bigrams):
    """A pack takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def _nats(self, pack: Pack) -> tuple[Tensor, int]:
        self.now += 1.0
        return super()._nats(pack)


def test_a_run_with_a_limit_ends_before_it_with_its_rate_near_zero(tmp_path: Path) -> None:
    plan = replace(PLAN, rows=1200, steps=300, epochs=1.0, evaluate_every=1000)
    network = SlowBigrams()
    observer = Observer(clock=lambda: network.now)
    loop = Loop(network, rows(1200), rows(4, seed=9), plan, tmp_path, observer)
    end = loop.run(until_s=200.0)
    assert 190.0 < network.now <= 200.0
    assert 0 < loop.progress.step < 300
    assert f"ended by the clock after step {loop.progress.step} of 300" in end.remark
    rates = [event["lr"] for event in events_of(tmp_path) if "lr" in event]
    assert rates[-1] < 0.1 * max(rates)
    assert [at for at, _ in loop.progress.held_out] == [0, loop.progress.tokens]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_in_words_and_changes_no_weight(
    tmp_path: Path, value: float
) -> None:
    loop = loop_in(tmp_path)
    network = loop.network
    good: list[Tensor] = []
    backward = network.backward

    def break_down(pack: Pack, scale: float) -> float:
        nats = backward(pack, scale)
        if loop.progress.step == 4:
            good.append(table_of(loop).clone())
            return nats * value
        return nats

    network.backward = break_down  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match=r"in step 5.*--lr 0.075 --overwrite"):
        loop.run()
    kept = loop_in(tmp_path)
    assert kept.resume()
    assert torch.equal(table_of(kept), good[0])


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    loop_in(tmp_path).save()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecipeError, match=r"checkpoint\.safetensors cannot be used"):
        loop_in(tmp_path).resume()
