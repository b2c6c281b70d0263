"""Whether fine-tuning teaches, at what cost, and what it spoils.

    python -m tests.train.taught.evaluate --base smollm2 --lora-rank 16 --seeds 0,1,2
    python -m tests.train.taught.evaluate --task extraction --base smollm2 --ways lora --seeds 0

trains with `shoal train`, serves the result with `shoal serve` and asks it. Task "pirate": 200
pairs, 50 held-out questions; "extraction": 2,000 requests of SNIPS, all of its validation split,
with pilotfish in the same table. Bits per byte of 200 Wikinews articles show what was forgotten.
"""

import argparse
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from models.recipes.pilotfish.evaluate import score_answers
from tests.benchmarks.bench_quality import NUM_ARTICLES, wikinews_bits_per_byte
from tests.benchmarks.serving import ROOT
from tests.train.taught import extraction, pirate
from tests.train.taught.asking import CONCURRENCY, ask_questions, extractor, served
from tests.train.taught.training import TAUGHT, Run, Taught, train

DATA = ROOT.parent / "shared" / "data" / "corpora"
BITS = "bits per byte"
Figures = dict[str, float]
"""Shares from 0 to 1 by name; `BITS` is none."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is taught. `write(path, seed)`: the rows; `measure(client, model)`: figures."""

    write: Callable[[Path, int], None]
    measure: Callable[[httpx.Client, str], Figures]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; a model that was not trained here has no `taught`."""

    name: str
    figures: Figures
    taught: Taught | None = None


def pirate_task() -> Task:
    return Task(
        write=lambda path, seed: pirate.write_pairs(
            path, pirate.make_pairs(pirate.NUM_PAIRS, seed)
        ),
        measure=measure_pirate,
    )


def measure_pirate(client: httpx.Client, model: str) -> Figures:
    """`both` is what counts: answered in the taught way, and ended."""
    questions = pirate.held_out_questions()
    answers = ask_questions(client, model, questions, pirate.MAX_TOKENS)
    taught = [pirate.is_taught(answer.text) for answer in answers]
    both = [way and answer.stopped for way, answer in zip(taught, answers, strict=True)]
    return {
        "taught": sum(taught) / len(answers),
        "stopped": sum(answer.stopped for answer in answers) / len(answers),
        "both": sum(both) / len(answers),
    }


def extraction_task(data: Path, limit: int | None) -> Task:
    cases = extraction.held_out_cases(data)[:limit]

    def measure(client: httpx.Client, model: str) -> Figures:
        scores = score_answers(cases, extractor(client, model), CONCURRENCY)
        return {"intent": scores.intent, "frame": scores.frame, "valid JSON": scores.valid_json}

    return Task(
        write=lambda path, seed: extraction.write_rows(path, data, extraction.NUM_ROWS, seed),
        measure=measure,
    )


def measure_served(
    flags: list[str], model: str, task: Task, data: Path, num_articles: int
) -> Figures:
    """Figures of the task, and what other text costs the model."""
    with served(flags) as client:
        figures = task.measure(client, model)
        if num_articles:
            with ThreadPoolExecutor(CONCURRENCY) as pool:
                bits = wikinews_bits_per_byte(client, model, data.parent, num_articles, pool)
            figures[BITS] = bits
    return figures


def evaluate_run(run: Run, task: Task, data: Path, num_articles: int, folder: Path) -> Row:
    """Trains into `folder`, serves, measures."""
    folder.mkdir(parents=True)
    task.write(folder / "rows.jsonl", run.seed)
    taught = train(run, folder / "rows.jsonl", folder)
    (folder / "train.log").write_text(taught.cost.output, encoding="utf-8")
    figures = measure_served(taught.serve_flags(), TAUGHT, task, data, num_articles)
    return Row(str(run), figures, taught)


def table(rows: list[Row], bits_before: dict[str, float]) -> str:
    """Markdown. `bits_before`: of each base."""
    shares = [name for name in rows[0].figures if name != BITS]
    head = ["run", "steps", "wall s", "CPU s", "peak MiB", *shares, BITS, "change"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [row.name, *["–"] * 4]
        if row.taught:
            cost = row.taught.cost
            cells[1:] = [str(row.taught.steps), f"{cost.wall_s:.0f}"]
            cells += [f"{cost.cpu_s:.0f}", f"{cost.peak_mib:.0f}"]
        cells += [f"{100 * row.figures[name]:.1f} %" for name in shares]
        bits = row.figures.get(BITS)
        before = bits_before.get(row.taught.run.base) if row.taught else None
        cells.append("–" if bits is None else f"{bits:.4f}")
        cells.append("–" if not (bits and before) else f"{100 * (bits / before - 1):+.1f} %")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _served_name(base: str) -> str:
    return base if "/" not in base else f"base={base}"


def all_rows(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Row, str | None]]:
    """Each with the base that it is the untrained state of, where it is one."""
    data: Path = options.data
    is_extraction = options.task == "extraction"
    task = extraction_task(data, options.limit) if is_extraction else pirate_task()
    if is_extraction:
        yield (
            Row("pilotfish", measure_served(["--model", "pilotfish"], "pilotfish", task, data, 0)),
            None,
        )
    for base in options.base.split(","):
        served_as = _served_name(base)
        figures = measure_served(
            ["--model", served_as], served_as.split("=")[0], task, data, options.articles
        )
        yield Row(f"{Path(base).stem}, untrained", figures), base
        for way in options.ways.split(","):
            for seed in map(int, options.seeds.split(",")):
                rank = options.lora_rank if way == "lora" else None
                run = Run(base, seed, rank, tuple(shlex.split(options.train_flags)))
                place = folder / str(run).replace(", ", "-").replace(" ", "")
                yield evaluate_run(run, task, data, options.articles, place), None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=["pirate", "extraction"], default="pirate")
    add("--base", default="smollm2", help="models, with commas between them")
    add("--ways", default="lora,whole", help="lora, whole or both")
    add("--lora-rank", type=int, default=16)
    add("--seeds", default="0,1,2", help="of the rows and of training")
    add("--train-flags", default="", help="more flags of `shoal train`, in one argument")
    add("--articles", type=int, default=NUM_ARTICLES, help="of Wikinews; 0: none")
    add("--limit", type=int, help="most held-out requests of the task extraction")
    add("--data", type=Path, default=DATA, help="folder of the corpora")
    add("--keep", type=Path, metavar="FOLDER", help="keep rows, results and logs here")
    return parser


def main() -> None:
    options = _parser().parse_args()
    rows: list[Row] = []
    bits_before: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for row, base in all_rows(options, options.keep or Path(temporary)):
            rows.append(row)
            if base and BITS in row.figures:
                bits_before[base] = row.figures[BITS]
            print(f"{row.name}: {json.dumps(row.figures)}", flush=True)
    print(table(rows, bits_before))


if __name__ == "__main__":
    main()
