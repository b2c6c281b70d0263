"""`fine_tune`: a base and the user's rows in, an adapter or a whole model out.

The wiring of this package: prepare, network, loop, export. Holds no training logic.
"""

from __future__ import annotations

import platform
import shlex
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from shoal.checkpoint.find import name_of
from shoal.checkpoint.open import looks_like_model
from shoal.errors import ShoalError
from shoal.train.config import RecipeError
from shoal.train.finetune.card import CardFacts, Sample, read_licence, write_card
from shoal.train.finetune.compute import Compute, choose_compute, describe_compute
from shoal.train.finetune.export import write_adapter, write_model
from shoal.train.finetune.folder import replace_folder
from shoal.train.finetune.loop import HELD_OUT, End, Loop
from shoal.train.finetune.network import TrainableNetwork
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.pack import make_packs
from shoal.train.finetune.prepare import Prepared, describe, prepare
from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.progress import Progress, TrainingResult
from shoal.train.report import clock_text, write_loss_plot
from shoal.train.run_folder import FINISHED, RunFolder

_WRITTEN_BYTES_PER_S = 100e6
_MARGIN_S = 1.0
"""For what ends a run: the card, the plot, the process itself."""
_SHOWN_CHARS = 200
_OF_THE_PROCESS = ("overwrite", "models_dir", "num_threads", "memory_bytes")
"""Fields of a request that do not belong to the command which makes the same result."""


def fine_tune(request: FineTuneRequest, observer: Observer | None = None) -> TrainingResult:
    """Train, export, report. Goes on with a run that was stopped.

    Raises `RecipeError` or ModelFolderError for what cannot be done, and `Interrupted` after a
    signal, when all is saved."""
    observer = observer or Observer()
    started = observer.clock()
    prepared = prepare(request, observer)
    folder = RunFolder(prepared.run_dir, prepared.identity)
    with folder.claimed(overwrite=request.overwrite) as state:
        if state == "finished":
            return _finished(prepared, folder, observer)
        if state == "new" and not request.overwrite and looks_like_model(request.out):
            raise RecipeError(
                f"{request.out} holds a model of another run: --overwrite replaces it; another "
                "--out keeps both"
            )
        for line in describe(prepared):
            observer.say(line)
        return _Run(prepared, folder, observer, started).run()


def rehearse(request: FineTuneRequest, observer: Observer) -> None:
    """Say what a run would cost, of which one step is made and measured. Writes nothing."""
    prepared = prepare(request, observer, writes=False)
    for line in describe(prepared):
        observer.say(line)
    plan = prepared.plan
    compute = choose_compute(prepared, {})
    packs = make_packs(prepared.rows[: plan.batch_size], plan.pack_tokens)
    network = make_network(prepared, compute)
    network.backward(packs[0], 0.0)  # what is only done once
    since = observer.clock()
    for pack in packs:
        network.backward(pack, 0.0)
    tokens_per_s = sum(pack.num_row_tokens for pack in packs) / (observer.clock() - since)
    num_tokens = round(prepared.num_tokens * plan.epochs)
    observer.say(f"computes    {describe_compute(compute, request.memory_bytes)}")
    observer.say(
        f"takes       about {clock_text(num_tokens / tokens_per_s)} for {num_tokens:,} tokens in "
        f"{plan.steps} steps ({tokens_per_s:,.0f} tokens/s, measured)"
    )
    observer.say("nothing was trained and nothing written: --dry-run")


def make_network(prepared: Prepared, compute: Compute) -> TrainableNetwork:
    """The base, ready to be trained."""
    return TrainableNetwork(
        prepared.checkpoint,
        lora=prepared.plan.lora,
        device=prepared.device,
        seed=prepared.plan.seed,
        checkpointing=compute.checkpointing,
        dtype=compute.dtype,
    )


class _Run:
    """One process's part of a run."""

    def __init__(
        self, prepared: Prepared, folder: RunFolder, observer: Observer, started: float
    ) -> None:
        self.prepared, self.folder, self.observer = prepared, folder, observer
        self.request, self.started = prepared.request, started
        self.before: list[str] = []
        """Answers to the questions, before."""

    def run(self) -> TrainingResult:
        prepared, say, clock = self.prepared, self.observer.say, self.observer.clock
        since = clock()
        self.before = self._answers(prepared.base, None)
        answers_s = clock() - since
        compute = choose_compute(prepared, self.folder.notes)
        self.folder.note(**compute.note)
        say(f"computes    {describe_compute(compute, self.request.memory_bytes)}")
        network = make_network(prepared, compute)
        plan, folder = prepared.plan, prepared.run_dir
        loop = Loop(network, prepared.rows, prepared.held_out, plan, folder, self.observer)
        if loop.resume():
            say(f"continues at step {loop.progress.step} of {plan.steps}")
        end = loop.run(self._until_s(network, answers_s))
        if end.remark:
            say(end.remark)
        try:
            self._export(network, loop.progress, end)
        except BaseException:
            loop.save(is_done=True)  # so that only the export is to be repeated
            raise
        plot = folder / "loss.png"
        drawn = write_loss_plot(loop.progress, plot)
        count = sum(weight.numel() for weight in network.parameters.values())
        figures = _figures(loop.progress, end)
        self.folder.finish(
            {
                "out": str(self.request.out),
                "step": end.step,
                "num_parameters": count,
                "tokens": loop.progress.tokens,
                "elapsed_s": round(loop.progress.elapsed_s, 1),
                "losses": figures,
            }
        )
        serve = serve_command(self.request, prepared.base)
        return TrainingResult(
            self.request.out,
            folder,
            count,
            loop.progress,
            figures,
            plot if drawn else None,
            serve,
        )

    def _until_s(self, network: TrainableNetwork, answers_s: float) -> float | None:
        """When the last step must end, so that what follows it ends in time."""
        if self.request.limit_s is None:
            return None
        num_bytes = sum(4 * weight.numel() for weight in network.parameters.values())
        after_s = _MARGIN_S + 1.5 * answers_s + num_bytes / _WRITTEN_BYTES_PER_S
        until_s = self.started + self.request.limit_s - after_s
        if until_s <= self.observer.clock():
            spent_s = self.observer.clock() - self.started + after_s
            raise RecipeError(
                f"--minutes {self.request.limit_s / 60:g} is too short: without any step it takes "
                f"about {spent_s / 60:.1f}"
            )
        return until_s

    # --- the result ------------------------------------------------------------------------------

    def _export(self, network: TrainableNetwork, progress: Progress, end: End) -> None:
        prepared, request = self.prepared, self.request
        by_hand = False

        def write(folder: Path) -> None:
            nonlocal by_hand
            if prepared.is_adapter:
                assert prepared.plan.lora is not None
                write_adapter(
                    folder,
                    prepared.checkpoint,
                    request.base,
                    prepared.plan.lora,
                    network.low_rank(),
                )
                after = self._answers(prepared.base, folder)
            else:
                left_out = write_model(folder, prepared.checkpoint, network.whole_weights())
                if left_out:
                    self.observer.say(f"not copied from the base: {', '.join(left_out)}")
                after = self._answers(folder, None)
            samples = [
                Sample(question.prompt, before, now)
                for question, before, now in zip(
                    prepared.questions, self.before, after, strict=False
                )
            ]
            for sample in samples:
                self._show(sample)
            by_hand = not write_card(folder, self._facts(progress, end, samples), request.out)

        replace_folder(request.out, write, prepared.base)
        if by_hand:
            self.observer.say(f"{request.out} keeps its card, which was written by hand")

    def _answers(self, model: Path, adapter: Path | None) -> list[str]:
        """None where they cannot be had, which is said."""
        if self.observer.answer is None or not self.prepared.questions:
            return []
        prompts = [question.token_ids for question in self.prepared.questions]
        try:
            return self.observer.answer(model, adapter, prompts)
        except ShoalError as error:
            self.observer.say(f"no sample answers: {error.message}")
            return []

    def _show(self, sample: Sample) -> None:
        self.observer.say(f"asked       {sample.prompt}")
        self.observer.say(f"  before    {' '.join(sample.before.split())[:_SHOWN_CHARS]}")
        self.observer.say(f"  after     {' '.join(sample.after.split())[:_SHOWN_CHARS]}")

    def _facts(self, progress: Progress, end: End, samples: list[Sample]) -> CardFacts:
        prepared, request = self.prepared, self.request
        held_out = held_out_losses(progress, end)
        return CardFacts(
            name=request.out.absolute().name,
            kind="adapter" if prepared.is_adapter else "model",
            base=str(request.base),
            base_licence=read_licence(prepared.checkpoint.files),
            data=request.data.name,
            num_rows=len(prepared.file.rows),
            data_sha256=prepared.file.fingerprint,
            command=train_command(request),
            settings={name: value for name, value, _ in prepared.choices},
            held_out=held_out,
            num_held_out=len(prepared.held_out),
            learned_tokens=prepared.num_learned,
            seconds=progress.elapsed_s,
            processor=_processor(),
            versions={name: version(name) for name in ("shoal", "torch")},
            samples=samples,
        )


def _finished(prepared: Prepared, folder: RunFolder, observer: Observer) -> TrainingResult:
    """The result that is there already."""
    facts, out = folder.notes[FINISHED], prepared.request.out
    if not looks_like_model(out):
        raise RecipeError(
            f"the run in {folder.path} is finished, and {out}, which it wrote, is gone: "
            "--overwrite trains it again"
        )
    observer.say(
        f"this run is finished: {out} was written after step {facts['step']}; nothing was trained. "
        "--overwrite begins anew"
    )
    plot = folder.path / "loss.png"
    progress = Progress(step=facts["step"], tokens=facts["tokens"], elapsed_s=facts["elapsed_s"])
    return TrainingResult(
        out,
        folder.path,
        facts["num_parameters"],
        progress,
        facts["losses"],
        plot if plot.exists() else None,
        serve_command(prepared.request, prepared.base),
    )


def held_out_losses(progress: Progress, end: End) -> tuple[float, float] | None:
    """Nats per learned token before the first step and with the weights that were kept."""
    if end.held_out is None:
        return None
    return progress.held_out[0][1][HELD_OUT], end.held_out


def _figures(progress: Progress, end: End) -> dict[str, float]:
    """Nats per learned token, by what they were measured on and when."""
    if (losses := held_out_losses(progress, end)) is not None:
        return {"held out, before": losses[0], "held out, after": losses[1]}
    steps = [loss for _, loss in progress.losses]
    return {"first step": steps[0], "last step": steps[-1]} if steps else {}


def serve_command(request: FineTuneRequest, base: Path) -> str:
    """The command that serves the result, as it can be typed."""
    out = str(request.out)
    if request.lora_rank is None or request.merge:
        words = ["--model", out]
    else:
        name = request.out.absolute().name
        adapter = f"{name}-adapter={out}" if name == name_of(base) else out
        words = ["--model", str(request.base), "--adapter", adapter]
    return shlex.join(["shoal", "serve", *words])


def train_command(request: FineTuneRequest) -> str:
    """The command line of a request."""
    words = ["shoal", "train"]
    defaults = {field.name: field.default for field in fields(request)}
    for name, default in defaults.items():
        value = getattr(request, name)
        if value == default or name in _OF_THE_PROCESS:
            continue
        if name == "limit_s":
            name, value = "minutes", f"{value / 60:g}"
        flag = "--" + {"base": "from"}.get(name, name).replace("_", "-")
        if value is True:
            words.append(flag)
        else:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [flag, text]
    return shlex.join(words)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
