"""What drafts gain and cost, side by side in one run.

    python tests/benchmarks/bench_drafts.py --data ../shared/data/corpora --clients 1 2 4 32

Two engines in this process, with drafts and without, answer the same requests in turn: SmolLM2
repeats a text and writes a free one, minnow writes a story, pilotfish answers held-out SNIPS
requests with copied slots and without a schema. Output tokens per second of both (the medians of
the rounds), how many drafts were right, and steps per token. A model that is not there is left out.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from models.recipes.common.evaluation import EvaluationOptions  # noqa: E402
from models.recipes.pilotfish.evaluate import held_out_cases, snips_schema  # noqa: E402
from shoal.engine.core import EngineCore  # noqa: E402
from shoal.protocol.messages import EngineConfig, ModelSource, Submit  # noqa: E402
from shoal.protocol.params import SamplingParams, StopParams  # noqa: E402
from shoal.runner.load import load_runner  # noqa: E402
from shoal.text.grammar.copying import copy_rules  # noqa: E402
from shoal.text.grammar.source import compact  # noqa: E402
from shoal.text.text_model import TextModel, load_text_model  # noqa: E402

TEXT = (
    "The harbour of the small town was quiet in the morning. Three boats lay at the old pier, "
    "their nets hung out to dry, and a grey cat slept on a coil of rope. By noon the market had "
    "begun: bread, apples, wool from the hills, and fish in wooden boxes."
)


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to make."""

    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0
    grammar: str | None = None
    copy_text: str | None = None


@dataclass(slots=True)
class Counts:
    """Of one round."""

    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


class Side:
    """An engine with drafts, or without."""

    def __init__(self, source: ModelSource, threads: int, *, drafts: bool) -> None:
        config = EngineConfig(
            models=(source,), num_threads=threads, drafts=drafts, draft_weight_bytes=0
        )
        loaded = load_runner(source, config, config.kv_cache_bytes, lambda _: None)
        self._core = EngineCore({"model": loaded}, config, time.monotonic)
        self._end_ids = load_text_model(source).end_token_ids
        self._num_sequences = 0

    def measure(self, requests: list[Request], num_clients: int) -> Counts:
        """Every client sends its next request when the last is answered."""
        counts, waiting, open_ids = Counts(), list(reversed(requests)), set[int]()
        for _ in range(num_clients):
            open_ids.add(self._send(waiting.pop(), len(waiting)))
        since = time.perf_counter()
        while open_ids:
            if not self._core.has_work or (outputs := self._core.step()) is None:
                time.sleep(0.0005)  # a grammar is being compiled
                continue
            counts.steps += outputs.num_tokens > 0
            counts.tokens += sum(len(token_ids) for _, token_ids in outputs.tokens())
            counts.drafted += outputs.num_drafted
            counts.accepted += outputs.num_accepted
            for seq_id in outputs.finished:
                open_ids.remove(seq_id)
                if waiting:
                    open_ids.add(self._send(waiting.pop(), len(waiting)))
        counts.seconds = time.perf_counter() - since
        return counts

    def _send(self, request: Request, seed: int) -> int:
        self._num_sequences += 1
        submit = Submit(
            self._num_sequences,
            "model",
            request.prompt,
            SamplingParams(
                seed, request.temperature, grammar=request.grammar, copy_text=request.copy_text
            ),
            StopParams(request.max_tokens, end_token_ids=self._end_ids),
            use_prefix_cache=False,
        )
        self._core.add(submit)
        return submit.seq_id


def chat_prompt(model: TextModel, messages: list[dict[str, str]]) -> list[int]:
    chat = model.chat.render(
        messages,
        given={},
        add_generation_prompt=True,
        continue_final_message=False,
        max_chars=100_000,
    )
    return model.chat.encode(chat)


def smollm2_tasks(model: TextModel, count: int) -> dict[str, list[Request]]:
    sentences = TEXT.split(". ")

    def copying(number: int) -> str:
        first = number % len(sentences)
        return (
            f"Repeat this text word by word:\n\n{'. '.join(sentences[first:] + sentences[:first])}"
        )

    def asking(number: int) -> str:
        return f"Write a long letter from a sailor who has seen {number + 2} whales."

    def requests(text_of: Callable[[int], str], temperature: float) -> list[Request]:
        prompts = [
            chat_prompt(model, [{"role": "user", "content": text_of(i)}]) for i in range(count)
        ]
        return [Request(prompt, 128, temperature) for prompt in prompts]

    return {"copying": requests(copying, 0.0), "free text": requests(asking, 0.7)}


def minnow_tasks(model: TextModel, count: int) -> dict[str, list[Request]]:
    prompts = [
        model.tokenizer.encode(f"{i} little fish swam to the big boat and") for i in range(count)
    ]
    return {"free text": [Request(prompt, 128, 0.7) for prompt in prompts]}


def pilotfish_tasks(data: Path, model: TextModel, count: int) -> dict[str, list[Request]]:
    recipe = ROOT / "models" / "recipes" / "pilotfish"
    options = EvaluationOptions(url="", data=data, models=ROOT / "models")
    cases = held_out_cases(recipe, options.data)["snips"][:count]
    rules = copy_rules(snips_schema(data), compact)
    grammar = json.dumps({"grammars": [{"lark_grammar": rules}]})
    prompts = [chat_prompt(model, case.messages) for case in cases]
    texts = [case.messages[-1]["content"] for case in cases]
    return {
        "copied slots": [
            Request(prompt, 128, grammar=grammar, copy_text=text)
            for prompt, text in zip(prompts, texts, strict=True)
        ],
        "no schema": [Request(prompt, 128) for prompt in prompts],
    }


def report(name: str, task: str, clients: int, found: dict[bool, list[Counts]]) -> None:
    speed = {
        drafts: statistics.median(one.tokens / one.seconds for one in rounds)
        for drafts, rounds in found.items()
    }
    last = found[True][-1]
    right = last.accepted / last.drafted if last.drafted else 0.0
    print(
        f"{name:10} {task:13} {clients:3} clients  {speed[False]:7.0f} -> {speed[True]:7.0f} "
        f"tokens/s  {speed[True] / speed[False]:5.2f} x  {last.drafted / last.tokens:5.2f} drafted "
        f"a token, {right:4.0%} right, {last.steps} of {found[False][-1].steps} steps",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--models", nargs="+", default=["smollm2.gguf", "minnow", "pilotfish"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 32])
    parser.add_argument("--requests", type=int, default=8, help="of each client, 32 at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of the engine; 0: all cores")
    args = parser.parse_args()
    tasks: dict[str, Callable[[TextModel, int], dict[str, list[Request]]]] = {
        "smollm2.gguf": smollm2_tasks,
        "minnow": minnow_tasks,
        "pilotfish": partial(pilotfish_tasks, args.data),
    }
    for name in args.models:
        path = ROOT / "models" / name
        if not path.exists():
            print(f"{name} is not there: shoal pull {name.partition('.')[0]}")
            continue
        measure(name, tasks[name], ModelSource("model", str(path)), args)


def measure(name: str, make_tasks: Any, source: ModelSource, args: argparse.Namespace) -> None:
    model = load_text_model(source)
    sides = {drafts: Side(source, args.threads, drafts=drafts) for drafts in (False, True)}
    for clients in args.clients:
        count = clients * min(args.requests, max(1, 32 // clients))
        for task, requests in make_tasks(model, count).items():
            found: dict[bool, list[Counts]] = {drafts: [] for drafts in sides}
            for turn in range(args.rounds + 1):
                for drafts, side in sides.items():
                    counts = side.measure(requests, min(clients, len(requests)))
                    if turn:  # the first one warms up
                        found[drafts].append(counts)
            report(name, task, clients, found)


if __name__ == "__main__":
    main()
