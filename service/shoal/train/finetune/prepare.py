"""From a request to all that a fine-tuning run needs, before anything is written or trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shoal.checkpoint.find import name_of, parse_model
from shoal.errors import ConfigError
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.model.weights import num_parameters
from shoal.text.text_model import read_text_model
from shoal.train.config import RecipeError
from shoal.train.finetune.encode import Encoded, Encoder
from shoal.train.finetune.folder import check_out
from shoal.train.finetune.lora import make_lora
from shoal.train.finetune.observer import Observer
from shoal.train.finetune.plan import (
    Choice,
    Plan,
    choose_eval_share,
    choose_seq_len,
    make_plan,
)
from shoal.train.finetune.read import RowFile, read_rows
from shoal.train.finetune.rows import EncodedRow, LoraSettings, Row
from shoal.train.finetune.samples import Question, choose_questions
from shoal.train.finetune.settings import FineTuneRequest
from shoal.train.finetune.split import split
from shoal.train.run_folder import RESULT, RunFolder, choose_run_dir, result_of

_IDENTITY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that could begin."""

    request: FineTuneRequest
    base: Path
    """Folder or file of the model."""
    run_dir: Path
    device: str
    checkpoint: Checkpoint
    file: RowFile
    rows: list[EncodedRow]
    """That are learned."""
    held_out: list[EncodedRow]
    questions: list[Question]
    plan: Plan
    choices: list[Choice]
    """What is shown of the plan."""
    notes: list[str]
    """How data and base were read, a sentence each, for the user."""
    of_inputs: dict[str, Any]
    """The part of `identity` that is known before the rows are encoded."""

    @property
    def num_tokens(self) -> int:
        """Of the rows that are learned, once."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def num_learned(self) -> int:
        """Tokens of those rows that are in the loss."""
        return sum(int(row.in_loss[1:].sum()) for row in self.rows)

    @property
    def is_adapter(self) -> bool:
        """Is the result an adapter, not a whole model?"""
        return self.plan.lora is not None and not self.request.merge

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, for the run folder."""
        return {**self.of_inputs, "settings": self.plan.identity()}


def prepare(request: FineTuneRequest, observer: Observer, *, writes: bool = True) -> Prepared:
    """Read base and rows and choose what is open. `writes`: into the run folder, which may belong
    to another run; what can be told of that from data and base is found before the rows are
    encoded. Raises `RecipeError` or ModelFolderError."""
    if request.num_threads is not None:
        torch.set_num_threads(request.num_threads)
    base = find_base(request)
    run_dir = request.run_dir or choose_run_dir(request.out.absolute().name, request.out)
    device = _device(request.device)
    check_out(request.out, base, run_dir)
    checkpoint = load_checkpoint(base, lambda share: None)
    spec = checkpoint.spec
    if not spec.has_head:
        raise RecipeError(
            f"{name_of(base)} writes no text, it makes embeddings: give a base that answers, such "
            "as smollm2"
        )
    seq_len, seq_len_choice = choose_seq_len(request, spec.max_position_embeddings)
    file = read_rows(request.data, lambda done: observer.on_rows("reading", done, None))
    of_inputs = {
        "data": f"{request.data.name} (sha256 {file.fingerprint[:_IDENTITY_DIGITS]})",
        "base": f"{name_of(base)} (weights {checkpoint.files.weights_hash})",
        RESULT: result_of(request.out),
        "merged": request.merge,
    }
    if writes and not request.overwrite:
        RunFolder(run_dir, of_inputs).check()
    encoder = Encoder(read_text_model(checkpoint.files, name_of(base)), seq_len)
    share, share_choice = choose_eval_share(request, len(file.rows))
    learned, held_out = split(file.rows, share, request.seed)

    def encoded(some: Sequence[Row], before: int) -> Encoded:
        total = len(file.rows)
        return encoder.encode_all(
            some, lambda done: observer.on_rows("encoding", before + done, total)
        )

    rows, held_out_rows = encoded(learned, 0), encoded(held_out, len(learned))
    lora = _lora(request, checkpoint)
    plan, choices = make_plan(
        request,
        rows.rows,
        held_out_rows.rows,
        eval_share=share,
        seq_len=seq_len,
        num_weights=num_parameters(checkpoint.weights),
        lora=lora,
    )
    notes = [*file.notes, *rows.notes, *(f"held out: {note}" for note in held_out_rows.notes)]
    rendering = encoder.describe(file.kind)
    notes += [
        f"base        {name_of(base)}, {base}",
        f"data        {request.data}: {len(file.rows)} rows ({file.kind}), {rendering}",
    ]
    return Prepared(
        request=request,
        base=base,
        run_dir=run_dir,
        device=device,
        checkpoint=checkpoint,
        file=file,
        rows=rows.rows,
        held_out=held_out_rows.rows,
        questions=choose_questions(file.rows, held_out_rows.rows or rows.rows),
        plan=plan,
        choices=[*choices, seq_len_choice, share_choice],
        notes=notes,
        of_inputs=of_inputs,
    )


def describe(prepared: Prepared) -> Iterator[str]:
    """All of it, a line each, for the user."""
    yield from prepared.notes
    yield (
        f"            {prepared.num_tokens:,} tokens to read, {prepared.num_learned:,} of them "
        f"learned; {len(prepared.held_out)} rows held out"
    )
    for name, value, reason in prepared.choices:
        yield f"{name:<11} {value} ({reason})"
    yield f"device      {prepared.device}"
    yield f"run-dir     {prepared.run_dir}"


def find_base(request: FineTuneRequest) -> Path:
    """The model that a request names. Raises `RecipeError`."""
    try:
        return Path(parse_model(str(request.base), request.models_dir).path)
    except ConfigError as error:
        raise RecipeError(error.message) from error


def _device(wanted: str | None) -> str:
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"--device {name}: PyTorch knows cpu and cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(f"--device {name}: cpu and cuda can train")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"--device {name}: PyTorch sees no GPU; leave it out or give cpu")
    return name


def _lora(request: FineTuneRequest, checkpoint: Checkpoint) -> LoraSettings | None:
    if request.lora_rank is None:
        return None
    alpha = request.lora_alpha or 2.0 * request.lora_rank
    return make_lora(
        checkpoint.architecture, checkpoint.spec, request.lora_rank, alpha, request.lora_targets
    )
