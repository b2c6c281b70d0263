"""Embeddings of real texts: Shoal's server beside `transformers`, one and the same encoder.

    python -m tests.benchmarks.bench_embeddings --model models/minilm --rounds 3

Texts are the leads of Wikinews articles. Shoal gets them over HTTP, `--batch` a request, from
`--clients` at once; `transformers` gets batches as large in this process, sorted by length, so that
little is padding. Then one text at a time. Both sides in turn, medians; the largest difference of
two vectors shows that the sides computed the same.
"""

import argparse
import base64
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from shoal.commands.machine import describe
from shoal.train.corpora import read_records
from tests.benchmarks.serving import ROOT, serving

Vectors = NDArray[np.float32]
"""[texts, size]"""
Item = TypeVar("Item")


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class Served:
    """A running server; one connection for each client."""

    def __init__(self, port: int, num_clients: int, batch: int) -> None:
        limits = httpx.Limits(max_connections=num_clients)
        url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=url, limits=limits, timeout=120)
        self._num_clients, self._batch = num_clients, batch

    def embed(self, texts: Sequence[str]) -> Vectors:
        with ThreadPoolExecutor(self._num_clients) as pool:
            parts = list(pool.map(self._ask, in_batches(texts, self._batch)))
        return np.concatenate(parts)

    def _ask(self, texts: Sequence[str]) -> Vectors:
        body = {"input": list(texts), "encoding_format": "base64"}
        answer = self._client.post("/v1/embeddings", json=body)
        answer.raise_for_status()
        rows = [base64.b64decode(item["embedding"]) for item in answer.json()["data"]]
        return np.stack([np.frombuffer(row, "<f4") for row in rows])


class InProcess:
    """`transformers` with mean pooling and length 1, as sentence-transformers does it."""

    def __init__(self, folder: Path, batch: int, max_tokens: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._batch, self._max_tokens = batch, max_tokens

    def embed(self, texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found: list[Any] = [None] * len(texts)
        for indices in in_batches(order, self._batch):
            inputs = self._tokenizer(
                [texts[index] for index in indices], padding=True, truncation=True,
                max_length=self._max_tokens, return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            means = (hidden * mask).sum(1) / mask.sum(1)
            rows = torch.nn.functional.normalize(means).numpy()
            for index, row in zip(indices, rows, strict=True):
                found[index] = row
        return np.stack(found)


def one_by_one(embed: Callable[[Sequence[str]], Vectors]) -> Callable[[Sequence[str]], Vectors]:
    return lambda texts: np.concatenate([embed([text]) for text in texts])


def compare(
    name: str,
    sides: dict[str, Callable[[Sequence[str]], Vectors]],
    texts: Sequence[str],
    rounds: int,
) -> None:
    """Prints texts per second of each side and the ratio."""
    vectors = {side: embed(texts) for side, embed in sides.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            sides[side](texts)
            seconds[side].append(time.perf_counter() - started)
    rates = {side: len(texts) / statistics.median(of) for side, of in seconds.items()}
    ours, theirs = sides
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    worst = float(np.abs(vectors[ours] - vectors[theirs]).max())
    print(f"| {name} | {rates[ours]:.0f} | {rates[theirs]:.0f} | {rates[ours] / rates[theirs]:.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f}) | {worst:.0e} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "models" / "minilm")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data" / "corpora")
    add("--texts", type=int, default=512)
    add("--words", type=int, default=60, help="of a text at most")
    add("--batch", type=int, default=32, help="texts of a request")
    add("--clients", type=int, default=4)
    add("--max-tokens", type=int, default=256, help="of the model")
    add("--rounds", type=int, default=3)
    add("--flags", default="", help="further flags of `shoal serve`")
    options = parser.parse_args()
    articles = list(read_records(options.data / "wikinews-en.jsonl.xz"))[: options.texts]
    texts = [" ".join(article["text"].split()[: options.words]) for article in articles]
    theirs = InProcess(options.model, options.batch, options.max_tokens)
    with serving([str(options.model)], *options.flags.split()) as (_, port):
        ours = Served(port, options.clients, options.batch)
        machine = describe()
        print(f"{machine['cpu_model']}, {machine['usable_cores']:g} cores\n")
        print("| texts | Shoal, texts/s | transformers, texts/s | ratio (range) | difference |")
        print("|---|---|---|---|---|")
        compare(f"{len(texts)} in batches of {options.batch}",
                {"ours": ours.embed, "theirs": theirs.embed}, texts, options.rounds)  # fmt: skip
        alone = {"ours": one_by_one(ours.embed), "theirs": one_by_one(theirs.embed)}
        compare("64, one at a time", alone, texts[:64], options.rounds)


if __name__ == "__main__":
    main()
