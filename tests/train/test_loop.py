"""The loop: it learns, and a stopped run continues as if it had never stopped."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from shoal.train.network import Dropout, Llama
from shoal.train.optimizers import build_optimizers, orthogonalize, rate_factor
from tests.train.builders import TINY, make_schedule, make_trainer


def test_loss_falls_far_below_that_of_a_uniform_guess(tmp_path: Path) -> None:
    progress = make_trainer(tmp_path).run()
    first, last = progress.losses[0][1], progress.losses[-1][1]
    assert first > 5.0
    assert last < 1.5


def test_resumed_run_computes_the_same_losses_bit_for_bit(tmp_path: Path) -> None:
    shape = replace(TINY, dropout=0.1)  # the random state must survive too
    whole = make_trainer(tmp_path / "whole", shape)
    whole.run()
    stopped = make_trainer(tmp_path / "stopped", shape)
    stopped.network.train()
    for _ in range(9):
        stopped.step()
    stopped.save()
    torch.rand(7)  # whatever happens in between
    resumed = make_trainer(tmp_path / "stopped", shape)
    assert resumed.resume()
    resumed.run()
    assert resumed.progress.losses == whole.progress.losses
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name


def test_without_a_checkpoint_nothing_is_resumed(tmp_path: Path) -> None:
    assert not make_trainer(tmp_path).resume()


def test_time_limit_ends_the_run_with_a_decayed_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tokens=10_000_000)
    seconds = count(step=0.01)
    trainer.watch = replace(trainer.watch, clock=lambda: next(seconds))
    trainer.limit_s = 1.0
    trainer.run()
    assert trainer.progress.tokens < 10_000_000
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.3 * trainer.schedule.matrix_lr


def test_rate_warms_up_stays_and_decays_to_zero() -> None:
    schedule = make_schedule(warmup_steps=10, decay_share=0.5)
    assert rate_factor(0.0, 0, schedule) == pytest.approx(0.1)
    assert rate_factor(0.3, 50, schedule) == 1.0
    assert rate_factor(0.75, 50, schedule) == pytest.approx(0.5)
    assert rate_factor(1.0, 50, schedule) == 0.0


def test_muon_direction_is_nearly_orthogonal() -> None:
    matrices = torch.randn(3, 48, 16, generator=torch.Generator().manual_seed(0))
    strengths = torch.linalg.svdvals(orthogonalize(matrices))
    assert strengths.min() > 0.5
    assert strengths.max() < 1.4


def test_tokens_that_only_get_tiny_pushes_stay_where_they_are() -> None:
    network = Llama(TINY, vocab_size=8)
    rows = network.model.embed_tokens.weight
    before, other_lr = rows.detach().clone(), make_schedule().other_lr
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 1e-8)
    rows.grad[3] = 1e-2
    for optimizer in build_optimizers(network, make_schedule()):
        optimizer.step()
    moved = (rows.detach() - before).abs().amax(dim=1)
    assert moved[3] == pytest.approx(other_lr, rel=0.01)
    assert moved[[0, 1, 2, 4, 5, 6, 7]].max() < 0.01 * other_lr


def test_dropout_drops_its_share_and_keeps_the_mean_while_training_only() -> None:
    dropout = Dropout(0.1)
    ones = torch.ones(1001, 101)  # no multiple of eight
    assert torch.equal(dropout.eval()(ones), ones)
    dropout.train()
    torch.manual_seed(3)
    dropped = dropout(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(26 / 256, abs=0.004)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.005)
    torch.manual_seed(3)
    assert torch.equal(dropout(ones), dropped)
    assert not torch.equal(dropout(ones), dropped)
    with pytest.raises(ValueError, match="dropout of 1"):
        Dropout(1.0)
