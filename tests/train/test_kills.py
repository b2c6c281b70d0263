"""A kill while a recipe's training saves: checkpoint and exported folder are the ones before or
after, whole."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shoal.model.loader import load_checkpoint
from shoal.train.config import RecipeError, Sampling
from shoal.train.export import export_folder
from shoal.train.run import TrainingRequest, run_training
from tests.train.builders import make_tokenizer, make_trainer, write_jsonl


@pytest.mark.parametrize("kills", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_every_kill_leaves_a_folder_and_a_checkpoint_that_load(tmp_path: Path, kills: int) -> None:
    tokenizer, out = make_tokenizer(), tmp_path / "mine"
    trainer = make_trainer(tmp_path / "run")
    trainer.watch = replace(
        trainer.watch,
        on_checkpoint=lambda network, _: export_folder(network, tokenizer, Sampling(), out),
    )
    started = time.monotonic()
    trainer.save()
    usual_s = time.monotonic() - started
    chance, killed = random.Random(1), 0
    for turn in range(1, kills + 1):
        child = os.fork()
        if child == 0:
            with torch.no_grad():
                trainer.network.model.norm.weight.fill_(turn)
            trainer.save()
            os._exit(0)
        time.sleep(chance.random() * usual_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        load_checkpoint(out, lambda share: None)
        state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
        assert len(set(state["network"]["model.norm.weight"].tolist())) == 1
    assert killed
    trainer.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt"}


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "own.jsonl", [{"text": "a b c"}] * 50)
    with pytest.raises(RecipeError, match="is a file: name a folder"):
        run_training(TrainingRequest(out=data, data=data, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
