"""`fine_tune`: a base and the user's rows in, an adapter or a whole model out.

The wiring of this package: prepare, network, loop, export. Holds no training logic.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.checkpoint.find import name_of
from shoal.checkpoint.open import looks_like_model
from shoal.errors import ShoalError
from shoal.train.config import RecipeError
from shoal.train.finetune.card import CardFacts, Sample, write_card
from shoal.train.finetune.cost import estimate
from shoal.train.finetune.export import write_adapter, write_model
from shoal.train.finetune.folder import replace_folder
from shoal.train.finetune.loop import HELD_OUT, End, Loop
from shoal.train.finetune.network import TrainableNetwork
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.pack import make_packs
from shoal.train.finetune.prepare import Prepared, prepare
from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.progress import Progress, TrainingResult
from shoal.train.report import clock_text, write_loss_plot
from shoal.train.run_folder import RunFolder

_WRITTEN_BYTES_PER_S = 100e6
_MARGIN_S = 1.0
"""For what ends a run: the card, the plot, the process itself."""


def fine_tune(request: FineTuneRequest, observer: Observer | None = None) -> TrainingResult:
    """Train, export, report. Goes on with a run that was stopped.

    Raises `RecipeError` or ModelFolderError for what cannot be done, and `Interrupted` after a
    signal, when all is saved."""
    observer = observer or Observer()
    started = observer.clock()
    prepared = prepare(request, observer.say)
    folder = RunFolder(prepared.run_dir, prepared.identity)
    with folder.claimed(overwrite=request.overwrite) as state:
        if state == "finished":
            return _finished(prepared, folder, observer)
        if state == "new" and not request.overwrite and looks_like_model(request.out):
            raise RecipeError(
                f"{request.out} holds a model of another run: --overwrite replaces it; another "
                "--out keeps both"
            )
        return _Run(prepared, folder, observer, started).run()


def rehearse(request: FineTuneRequest, observer: Observer) -> None:
    """Say what a run would cost, of which one step is made and measured. Writes nothing."""
    prepared = prepare(request, observer.say)
    plan = prepared.plan
    packs = make_packs(prepared.rows[: plan.batch_size], plan.pack_tokens)
    network = _network(prepared)
    network.backward(packs[0], 0.0)  # what is only done once
    since = time.perf_counter()
    for pack in packs:
        network.backward(pack, 0.0)
    tokens_per_s = sum(pack.num_row_tokens for pack in packs) / (time.perf_counter() - since)
    num_tokens = round(prepared.num_tokens * plan.epochs)
    cost = _cost(prepared)
    observer.say(f"tokens      {num_tokens:,} to read, {plan.steps} steps")
    observer.say(f"memory      about {cost.memory_bytes / 1e9:.1f} GB")
    observer.say(
        f"time        about {clock_text(num_tokens / tokens_per_s)} min "
        f"({tokens_per_s:,.0f} tokens/s, measured)"
    )
    observer.say("nothing was trained and nothing written: --dry-run")
