"""What smaller number formats cost a model: bits per byte and small tasks, through the server.

`python -m tests.benchmarks.bench_quality --model models/smollm2.gguf --data ../shared/data`
starts `shoal serve` once per format and asks it for log-probabilities of given text. Bits per byte
on the last Wikinews articles; ARC-Easy, COPA and the Winograd schemas by the likelier continuation
(its log-probability; ARC-Easy per byte of the answer, as is usual). Prints a table; `--out` writes
the figures as JSON, and `--quality` what each integer format costs beside bfloat16, in the shape of
quality.json. `--dequantize` measures formats made of the numbers that a GGUF file's blocks stand
for, which are written into a folder for the time of the run.
"""

import argparse
import json
import lzma
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.benchmarks.dequantized_folder import write_dequantized
from tests.benchmarks.serving import serving

FORMATS: dict[str, tuple[str, ...]] = {
    "float32": ("--dtype", "float32"),
    "bfloat16": ("--dtype", "bfloat16"),
    "as stored": (),
    "int8": ("--quantize", "int8"),
    "int4": ("--quantize", "int4"),
    "bfloat16, int8 KV": ("--dtype", "bfloat16", "--kv-cache-dtype", "int8"),
}
"""Name -> flags of `shoal serve`."""
FULL = "bfloat16"
"""The format that others are compared with."""
NUM_ARTICLES = 200
CONCURRENCY = 8


class Scored(NamedTuple):
    """Log-probability in nats of the end of a text, and how many bytes that is."""

    nats: float
    num_bytes: int


Score = Callable[[str, int], Scored]
"""(text, where its scored end begins, in characters) -> score of that end."""


class Question(NamedTuple):
    """Texts that differ in one part; all are scored from `starts` on."""

    texts: list[str]
    starts: list[int]
    gold: int


def score_on_server(client: httpx.Client, model: str) -> Score:
    """Scores by the echoed prompt's log-probabilities; tokens that begin before the end but reach
    into it count as part of it."""

    def score(text: str, start: int) -> Scored:
        body = {"model": model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
        reply = client.post("/v1/completions", json=body).raise_for_status().json()
        found = reply["choices"][0]["logprobs"]
        ends = [*found["text_offset"][1:], len(text)]
        first = next(i for i, end in enumerate(ends) if end > start)
        first = max(first, 1)  # the first token of all has no log-probability
        nats = math.fsum(found["token_logprobs"][first:])
        return Scored(nats, len(text[found["text_offset"][first] :].encode()))

    return score


def bits_per_byte(texts: list[str], score: Score, pool: ThreadPoolExecutor) -> float:
    """Of all bytes but those of each text's first token."""
    scored = list(pool.map(lambda text: score(text, 0), texts))
    return -math.fsum(each.nats for each in scored) / math.log(2) / sum(s.num_bytes for s in scored)


def accuracy(
    questions: Iterable[Question], score: Score, pool: ThreadPoolExecutor, *, per_byte: bool
) -> float:
    """Share of questions whose right text is the likeliest; of equal ones the first counts."""

    def is_right(question: Question) -> bool:
        found = [
            score(text, start) for text, start in zip(question.texts, question.starts, strict=True)
        ]
        values = [s.nats / s.num_bytes if per_byte else s.nats for s in found]
        return values.index(max(values)) == question.gold

    right = list(pool.map(is_right, questions))
    return sum(right) / len(right)


def articles(data: Path, count: int) -> list[str]:
    """The last articles of the collection."""
    with lzma.open(data / "corpora" / "wikinews-en.jsonl.xz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return texts[-count:]


def wikinews_bits_per_byte(
    client: httpx.Client, model: str, data: Path, count: int, pool: ThreadPoolExecutor
) -> float:
    """Of the last `count` articles, each in parts that fit the served model's context."""
    context = client.get(f"/v1/models/{model}").raise_for_status().json()["max_model_len"]
    parts = [part for text in articles(data, count) for part in _parts(text, context)]
    return bits_per_byte(parts, score_on_server(client, model), pool)


def _parts(text: str, context: int) -> list[str]:
    """Of as many characters as the context has tokens."""
    return [text[start : start + context] for start in range(0, len(text), context)]


def arc_easy(data: Path) -> list[Question]:
    return [
        _ended(f"{row['query']}\nAnswer:", row["choices"], row["gold"])
        for row in _rows(data, "arc-easy")
    ]


def copa(data: Path) -> list[Question]:
    return [
        _ended(row["query"], row["choices"], row["gold"])
        for row in _rows(data, "copa-superglue-val")
    ]


def winograd(data: Path) -> list[Question]:
    """The same end after two beginnings."""
    questions = []
    for row in _rows(data, "winograd-wsc273"):
        beginnings, end = row["context_options"], row["continuation"]
        texts = [f"{beginning} {end}" for beginning in beginnings]
        questions.append(Question(texts, [len(each) for each in beginnings], row["gold"]))
    return questions


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    lines = (data / "evals" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _ended(beginning: str, ends: list[str], gold: int) -> Question:
    return Question([f"{beginning} {end}" for end in ends], [len(beginning)] * len(ends), gold)


def measure(url: str, model: str, data: Path, limit: int | None) -> dict[str, float]:
    """All figures of a running server's model."""
    with (
        httpx.Client(base_url=url, timeout=600.0) as client,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):
        score = score_on_server(client, model)
        count = min(NUM_ARTICLES, limit or NUM_ARTICLES)
        return {
            "bits per byte, wikinews-en": wikinews_bits_per_byte(client, model, data, count, pool),
            "accuracy, ARC-Easy": accuracy(arc_easy(data)[:limit], score, pool, per_byte=True),
            "accuracy, COPA": accuracy(copa(data)[:limit], score, pool, per_byte=False),
            "accuracy, Winograd": accuracy(winograd(data)[:limit], score, pool, per_byte=False),
        }


def quality(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """Format -> metric -> its value at full precision and in that format (see quality.json)."""
    full = figures[FULL]
    return {
        name: {metric: {"full": full[metric], name: found[metric]} for metric in full}
        for name, found in figures.items()
        if name in ("int8", "int4")
    }


@contextmanager
def _measured(model: Path, dequantized: bool) -> Iterator[Path]:
    """What to serve: the model, or a folder of its numbers that goes away afterwards."""
    if not dequantized:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        write_dequantized(model, Path(folder))
        yield Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder or file")
    add("--data", type=Path, required=True, help="folder with corpora/ and evals/")
    add("--formats", default="bfloat16,as stored,int8,int4", help=", ".join(FORMATS))
    add("--dequantize", action="store_true", help="measure formats of the blocks' numbers")
    add("--limit", type=int, help="articles and questions of each kind; else all")
    add("--out", type=Path, help="write the figures to this JSON file")
    add("--quality", type=Path, help="write what int8 and int4 cost to this JSON file")
    return parser


def main() -> None:
    options = _parser().parse_args()
    figures: dict[str, dict[str, float]] = {}
    with _measured(options.model, options.dequantize) as model:
        for name in [each.strip() for each in options.formats.split(",")]:
            with serving([f"m={model}"], *FORMATS[name]) as (_, port):
                found = measure(f"http://127.0.0.1:{port}", "m", options.data, options.limit)
            figures[name] = found
            line = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
            print(f"{name}: {line}", flush=True)
            if options.out:
                options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.quality:
        options.quality.write_text(json.dumps(quality(figures), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
