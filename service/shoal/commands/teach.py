"""`shoal train --from`: fine-tunes a model, with progress and closing words on the terminal."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.train.progress import StepReport, TrainingResult

FIRST_LINE_S, LINE_EVERY_S = 1.0, 10.0
"""When progress that stays on the screen is shown: after this time, and so often."""


def teach(asked: dict[str, Any], *, dry_run: bool) -> None:
    """Fine-tune, or only say what it would cost. `asked`: fields of a FineTuneRequest."""
    from shoal.commands.answers import greedy_answers
    from shoal.commands.serve import checked_settings
    from shoal.errors import ModelFolderError
    from shoal.runner.device import available_bytes, usable_cores
    from shoal.train.config import RecipeError
    from shoal.train.finetune.interrupts import Interrupted
    from shoal.train.finetune.observer import Observer
    from shoal.train.finetune.run import fine_tune, rehearse
    from shoal.train.finetune.settings import FineTuneRequest

    models_dir = checked_settings(None, {}).models_dir
    try:
        request = FineTuneRequest(
            models_dir=models_dir,
            num_threads=None if "OMP_NUM_THREADS" in os.environ else usable_cores(),
            memory_bytes=available_bytes(),
            **asked,
        )
        with ExitStack() as stack:
            display = Display(f"teaching {request.out.name}", stack)
            observer = Observer(
                say=display.say,
                on_rows=display.on_rows,
                on_step=display.on_step,
                answer=greedy_answers,
            )
            if dry_run:
                rehearse(request, observer)
                return
            result = fine_tune(request, observer)
    except (RecipeError, ModelFolderError) as error:
        fail(str(error), 2)
    except Interrupted as error:
        print(f"{error}; the same command goes on from there")
        raise typer.Exit(128 + error.number) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint, if there is one")
        raise typer.Exit(130) from None
    _show_result(result)


def _show_result(result: TrainingResult) -> None:
    for name, loss in result.held_out.items():
        print(f"loss, {name}: {loss:.4f} nats per learned token")
    if result.plot is not None:
        print(f"loss curve: {result.plot}")
    print(f"{result.num_parameters:,} weights learned; {result.out} holds the result")
    print(f"Serve it with: {result.serve}")


class Display:
    """Shows a run: a line now and then before the steps; for these a bar on a terminal, else a
    line for the first and then now and then."""

    def __init__(self, title: str, stack: ExitStack) -> None:
        """`stack`: ends the bar."""
        self._title, self._stack = title, stack
        self._bar: Callable[[StepReport], None] | None = None
        self._has_stepped = False
        self._next_at = time.monotonic() + FIRST_LINE_S

    def say(self, line: str) -> None:
        print(line, flush=True)

    def on_rows(self, doing: str, done: int, total: int | None) -> None:
        if time.monotonic() >= self._next_at:
            of_all = "" if total is None else f" of {total:,}"
            self._show(f"{doing:<11} {done:,}{of_all} rows")

    def on_step(self, report: StepReport) -> None:
        if sys.stdout.isatty():
            if self._bar is None:
                from shoal.train.report import progress_bar

                self._bar = self._stack.enter_context(progress_bar(self._title))
            self._bar(report)
            return
        is_last = report.share_done >= 1.0
        if not self._has_stepped or is_last or time.monotonic() >= self._next_at:
            self._has_stepped = True
            self._show(step_line(report))

    def _show(self, line: str) -> None:
        self._next_at = time.monotonic() + LINE_EVERY_S
        print(line, flush=True)


def step_line(report: StepReport) -> str:
    """A step in one line."""
    from shoal.train.report import clock_text

    return (
        f"step {report.step}  {report.share_done:.0%}  loss {report.loss:.3f}  "
        f"{report.tokens_per_s:,.0f} tokens/s  {clock_text(report.left_s)} left"
    )
