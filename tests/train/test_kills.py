"""A kill while a recipe's training saves: checkpoint and exported folder are the ones before or
after, whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shoal.model.loader import load_checkpoint
from shoal.train.config import RecipeError, Sampling
from shoal.train.export import export_folder
from shoal.train.run import TrainingRequest, run_training
from tests.fakes.kills import kills_at_every_step, kills_at_random_times
from tests.train.builders import make_tokenizer, make_trainer, write_jsonl


class Saved:
    """A run that saves again and again, each time with other weights."""

    def __init__(self, above: Path) -> None:
        tokenizer, self.above = make_tokenizer(), above
        self.trainer = make_trainer(above / "run")
        self.trainer.watch = replace(
            self.trainer.watch,
            on_checkpoint=lambda network, _: export_folder(
                network, tokenizer, Sampling(), above / "mine"
            ),
        )
        self.save()

    def save(self) -> None:
        with torch.no_grad():
            self.trainer.network.model.norm.weight.add_(1)
        self.trainer.save()

    def check(self) -> None:
        load_checkpoint(self.above / "mine", lambda share: None)
        path = self.above / "run" / "checkpoint.pt"
        torch.load(path, weights_only=True)

    def check_end(self) -> None:
        self.save()
        self.check()
        assert {path.name for path in self.above.iterdir()} == {"mine", "run"}
        assert {path.name for path in (self.above / "run").iterdir()} == {"checkpoint.pt"}


def test_a_kill_at_every_fifth_step_leaves_a_folder_and_a_checkpoint(tmp_path: Path) -> None:
    saved = Saved(tmp_path)
    steps = [0]
    for step in kills_at_every_step(saved.save, stride=5):
        steps.append(step)
        saved.check()
    assert steps[-1] > 30
    saved.check_end()


@pytest.mark.slow
def test_200_kills_leave_a_folder_and_a_checkpoint(tmp_path: Path) -> None:
    saved = Saved(tmp_path)
    num_killed = 0
    for was_killed in kills_at_random_times(saved.save, 200):
        num_killed += was_killed
        saved.check()
    assert num_killed > 20
    saved.check_end()


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "own.jsonl", [{"text": "a b c"}] * 50)
    with pytest.raises(RecipeError, match="is a file: name a folder"):
        run_training(TrainingRequest(out=data, data=data, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
