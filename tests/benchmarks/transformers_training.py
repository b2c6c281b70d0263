"""Fine-tuning as a careful user of `transformers` and `peft` writes it; a process of its own.

    python -m tests.benchmarks.transformers_training --base FOLDER --rows pairs.jsonl --out FOLDER

AdamW, a rate that rises and falls linearly, gradients clipped, rows shuffled and padded to the
longest of their step, loss on answers alone. Prints one JSON object: see `Report`. Needs a folder
that `transformers` loads, with a chat template.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_NORM = 1.0
WARM_UP = 0.05
"""Of the steps."""
NOT_LEARNED = -100
"""Label of a position outside of the loss, in `transformers`."""
FORMATS = ("float32", "autocast", "bfloat16")
"""autocast: float32 weights, products in bfloat16; bfloat16: weights too, but those of LoRA."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, not padded: ids and labels [n]."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Report:
    """`tokens`: of all trained rows, padding not counted; `loop_s`: all steps; `last_loss`: nats
    per learned token over the last pass."""

    steps: int
    tokens: int
    loop_s: float
    last_loss: float


def examples(tokenizer: Any, rows: Sequence[dict[str, str]]) -> list[Example]:
    """Each pair as the template writes a question and its answer."""
    found = []
    for row in rows:
        asked = [{"role": "user", "content": row["prompt"]}]
        answered = [*asked, {"role": "assistant", "content": row["completion"]}]
        prompt = _ids(tokenizer, asked, add_generation_prompt=True)
        ids = _ids(tokenizer, answered, add_generation_prompt=False)
        if ids[: len(prompt)] != prompt:
            raise SystemExit("the template writes the question otherwise once it is answered")
        found.append(Example(ids, [NOT_LEARNED] * len(prompt) + ids[len(prompt) :]))
    return found


def _ids(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> Any:
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, return_dict=False
    )


def batches(rows: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """One pass in random order."""
    order = rng.sample(rows, len(rows))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(batch: Sequence[Example]) -> dict[str, Tensor]:
    """Tensors [rows, longest] for the model."""
    longest = max(len(row.ids) for row in batch)
    pads = [longest - len(row.ids) for row in batch]
    ids = [row.ids + [0] * pad for row, pad in zip(batch, pads, strict=True)]
    labels = [row.labels + [NOT_LEARNED] * pad for row, pad in zip(batch, pads, strict=True)]
    mask = [[1] * (longest - pad) + [0] * pad for pad in pads]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def make_model(options: argparse.Namespace) -> Any:
    """In training mode; with --lora-rank an adapter on all linear layers."""
    dtype = torch.bfloat16 if options.format == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=dtype)
    model.config.use_cache = False
    if options.lora_rank:
        config = LoraConfig(
            r=options.lora_rank,
            lora_alpha=2 * options.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    return model.train()


def train(model: Any, rows: Sequence[Example], options: argparse.Namespace) -> Report:
    """All passes, or `--max-steps`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0, fused=True)
    per_pass = math.ceil(len(rows) / options.batch_size)
    total = options.epochs * per_pass
    warm_up = max(1, round(WARM_UP * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (total - step) / (total - warm_up + 1))
    )
    rng = random.Random(options.seed)
    all_batches = itertools.chain.from_iterable(
        batches(rows, options.batch_size, rng) for _ in range(options.epochs)
    )
    losses: list[tuple[float, int]] = []
    tokens = 0
    began = time.perf_counter()
    for batch in itertools.islice(all_batches, options.max_steps):
        with _products(options.format):
            loss = model(**padded(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tokens += sum(len(row.ids) for row in batch)
        losses.append((loss.item(), num_learned(batch)))
    loop_s = time.perf_counter() - began
    last = losses[-per_pass:]
    nats = sum(loss * count for loss, count in last)
    return Report(len(losses), tokens, loop_s, nats / sum(count for _, count in last))


def num_learned(batch: Sequence[Example]) -> int:
    """Tokens in the loss; of a row's first one there is none, for nothing stands before it."""
    return sum(label != NOT_LEARNED for row in batch for label in row.labels[1:])


def _products(number_format: str) -> contextlib.AbstractContextManager[object]:
    if number_format == "autocast":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--base", type=Path, required=True)
    add("--rows", type=Path, required=True, help="JSONL with prompt and completion")
    add("--out", type=Path, help="folder for the result; else it is not written")
    add("--lora-rank", type=int, help="else all weights")
    add("--format", choices=FORMATS, default="float32")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=8)
    add("--lr", type=float, default=1e-4)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)
    add("--max-steps", type=int, help="stop after so many")
    return parser


def main() -> None:
    options = _parser().parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    model = make_model(options)
    report = train(model, examples(tokenizer, rows), options)
    if options.out:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
