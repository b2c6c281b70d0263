"""What structured output costs and gains, side by side in one run.

    python -m tests.benchmarks.bench_structured masks --model models/minnow --clients 32
    python -m tests.benchmarks.bench_structured forced --data ../shared/data/corpora --clients 1 8

`masks`: engines in this process decode free text, twice for a control, a JSON string that may not
end, whose state changes with each character, and a list of strings, some steps of each in turn;
tokens per second of each, and CPU time, of steps in which all sequences decode. `forced`: pilotfish
answers held-out SNIPS requests through a server, without a schema and with one of its frames, whose
forced tokens need no steps and whose answers help each other; then the time to the first token and
the CPU time of the server's processes. Rounds of all sides in turn; medians count. A side of
`forced` gets each request once, after others of the training data to warm up, and shares no prefix
and no answer with another side.
"""

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from models.recipes.common.evaluation import EvaluationOptions  # noqa: E402
from models.recipes.pilotfish.evaluate import (  # noqa: E402
    SNIPS_FILE,
    Case,
    held_out_cases,
    snips_schema,
)
from models.recipes.pilotfish.frames import frame_schema  # noqa: E402
from shoal.engine.core import EngineCore  # noqa: E402
from shoal.protocol.messages import EngineConfig, ModelSource, Submit  # noqa: E402
from shoal.protocol.params import OutputParams, SamplingParams, StopParams  # noqa: E402
from shoal.runner.load import load_runner  # noqa: E402
from shoal.text.text_model import TextModel, load_text_model  # noqa: E402
from shoal.train.corpora import read_records  # noqa: E402
from tests.benchmarks.serving import child_of, cpu_s, serving  # noqa: E402

TEXTS = {
    "JSON string": {"type": "string", "minLength": 4000},
    "JSON list": {"type": "array", "items": {"type": "string"}, "minItems": 1000},
}
_STEPS_AT_ONCE = 16
"""So close in time that the machine is the same for all sides."""
FORCED = '{"text":"'
"""How these answers begin. Free text goes on behind it too: longer sequences take longer steps."""


def grammar_of(schema: dict[str, Any]) -> str:
    """Of an object that holds nothing else."""
    whole = {"type": "object", "properties": {"text": schema}, "required": ["text"]}
    options = {"x-guidance": {"whitespace_flexible": False}}
    return json.dumps({"grammars": [{"json_schema": {**whole, **options}}]})


# --- masks ---------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of some steps."""

    num_tokens: int
    wall_s: float
    cpu_s: float

    def plus(self, other: "Cost") -> "Cost":
        return Cost(*map(sum, zip(self, other, strict=True)))

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Per token."""
        return self.cpu_s / self.num_tokens * 1e6


class Decoding:
    """An engine that decodes so many sequences at once."""

    def __init__(self, args: argparse.Namespace) -> None:
        source = ModelSource("model", str(args.model))
        config = EngineConfig(
            models=(source,),
            max_batch_size=args.clients,
            num_threads=args.threads,
            drafts=False,
        )
        loaded = load_runner(source, config, config.kv_cache_bytes, lambda _: None)
        self._core = EngineCore({"model": loaded}, config, time.monotonic)
        self._model: TextModel = load_text_model(source)
        self._clients, self._tokens = args.clients, args.tokens
        self._temperature, self._top_p = args.temperature, args.top_p
        self._sharing = args.sharing
        self._num_sequences = 0

    def decode(self, grammar: str | None) -> Iterator["Cost"]:
        """What some steps cost, and then the next ones, from when all sequences decode until the
        first is finished."""
        for _ in range(self._clients):
            self._num_sequences += 1
            self._core.add(self._submit(self._num_sequences, grammar))
        finished: set[int] = set()
        is_full = False
        cost = Cost(0, 0.0, 0.0)
        num_steps = 0
        while len(finished) < self._clients:
            started = time.perf_counter(), time.process_time()
            outputs = self._core.step() if self._core.has_work else None
            ended = time.perf_counter(), time.process_time()
            if outputs is None:
                time.sleep(0.001)  # a grammar is being compiled
                continue
            finished |= outputs.finished.keys()
            if is_full and not finished:
                wall_s, cpu_s = (b - a for a, b in zip(started, ended, strict=True))
                cost = cost.plus(Cost(outputs.num_tokens, wall_s, cpu_s))
                num_steps += 1
                if num_steps % _STEPS_AT_ONCE == 0:
                    yield cost
                    cost = Cost(0, 0.0, 0.0)
            is_full |= len(outputs.token_ids) == self._clients

    def _submit(self, seq_id: int, grammar: str | None) -> Submit:
        encode = self._model.tokenizer.encode
        prompt = encode(f"{seq_id} little fish swam to the big red boat and")
        beginning = [] if grammar else encode(FORCED, add_special_tokens=False)
        return Submit(
            seq_id,
            "model",
            [*prompt, *beginning],
            SamplingParams(
                seed=seq_id, temperature=self._temperature, top_p=self._top_p, grammar=grammar
            ),
            StopParams(self._tokens - len(beginning)),
            OutputParams(),
            use_prefix_cache=self._sharing,
        )


def masks(args: argparse.Namespace) -> None:
    grammars = {name: grammar_of(schema) for name, schema in TEXTS.items()}
    sides = {"free text": None, "control": None, **grammars}
    decoding = {name: Decoding(args) for name in sides}
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for index in range(1 + args.rounds):
        found = dict.fromkeys(sides, Cost(0, 0.0, 0.0))
        running = {name: decoding[name].decode(grammar) for name, grammar in sides.items()}
        while len(running) == len(sides):
            for name in random.sample(list(sides), len(sides)):
                if (cost := next(running[name], None)) is None:
                    del running[name]
                else:
                    found[name] = found[name].plus(cost)
        for rest in running.values():
            list(rest)
        if index:  # the first grammar builds the trie of the tokens
            for name, cost in found.items():
                costs[name].append(cost)
    sampling = f"temperature {args.temperature}, top_p {args.top_p}"
    print(f"{args.model.name}, {args.clients} clients, {sampling}")
    speed = {name: statistics.median(cost.tokens_per_s for cost in costs[name]) for name in sides}
    cpu = {name: statistics.median(cost.cpu_us for cost in costs[name]) for name in sides}
    for name in sides:
        print(f"  {name:12} {speed[name]:8.0f} tokens/s  {cpu[name]:7.1f} us CPU per token")
    for name in list(sides)[1:]:
        # Of each round, for the machine's speed changes from one to the next.
        pairs = zip(costs[name], costs["free text"], strict=True)
        lost = [1 - own.tokens_per_s / free.tokens_per_s for own, free in pairs]
        low, middle, high = statistics.quantiles(lost, n=4)
        more = cpu[name] - cpu["free text"]
        print(f"  {name}: {middle:.1%} less throughput (quarters {low:.1%} to {high:.1%}), "
              f"{more:.1f} us more CPU time per token")  # fmt: skip


# --- forced tokens -------------------------------------------------------------------------------


class Answering:
    """pilotfish behind a server. Connections stay open, one for each thread that asks; the client
    is the plainest there is, for its time would count on every side."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._of_thread = threading.local()

    def measure(self, bodies: list[bytes], num_clients: int) -> float:
        """Seconds per answer."""
        with ThreadPoolExecutor(num_clients) as pool:
            list(pool.map(lambda _: self._connection(), range(num_clients)))
            started = time.perf_counter()
            list(pool.map(self._ask, bodies))
            return (time.perf_counter() - started) / len(bodies)

    def first_tokens(self, bodies: list[bytes]) -> list[float]:
        """Seconds to the first token of each request, one after the other."""
        return [self._first_token(body) for body in bodies]

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection: HTTPConnection = self._of_thread.connection
        return connection

    def _send(self, body: bytes) -> HTTPResponse:
        connection = self._connection()
        connection.request("POST", _PATH, body, _JSON)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return response

    def _ask(self, body: bytes) -> None:
        self._send(body).read()

    def _first_token(self, body: bytes) -> float:
        started = time.perf_counter()
        response = self._send(body)
        response.readline()
        first_s = time.perf_counter() - started
        response.read()  # to the end, or the next one would share the engine with it
        return first_s


_PATH = "/v1/chat/completions"
_JSON = {"Content-Type": "application/json"}


class Side:
    """How one side asks. Bodies are made before the clock runs: that the client is written in
    Python is no cost of ours."""

    def __init__(self, name: str, schema: dict[str, Any] | None) -> None:
        self._extra: dict[str, Any] = {"temperature": 0, "max_tokens": 128}
        if schema is not None:
            self._extra["structured_outputs"] = {"json": schema}
        self._name = name

    def bodies(self, cases: list[Case], turn: str, *, stream: bool = False) -> list[bytes]:
        """`turn`: those of one share what the server learns."""
        salt = {"cache_salt": f"{self._name} {turn}", "stream": stream}
        return [json.dumps({"messages": c.messages, **salt, **self._extra}).encode() for c in cases]


def without_copies(schema: Any) -> Any:
    """The same schema, whose strings may be any: it is compiled once, not for each request."""
    if isinstance(schema, list):
        return [without_copies(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: without_copies(part) for key, part in schema.items() if key != "x-copy"}
    if "propertyNames" in plain:  # beside copies only
        names = plain.pop("propertyNames")["enum"]
        others = dict.fromkeys(names, plain["additionalProperties"])
        plain["properties"] = {**others, **plain.get("properties", {})}
        plain["additionalProperties"] = False
    return plain


def forced(args: argparse.Namespace) -> None:
    recipe = ROOT / "models" / "recipes" / "pilotfish"
    options = EvaluationOptions(url="", data=args.data, models=ROOT / "models")
    cases = held_out_cases(recipe, options.data)["snips"]
    records = [r for r in read_records(args.data / SNIPS_FILE) if r["split"] == "train"]
    for requests in (cases, records):
        random.Random(0).shuffle(requests)
    task = cases[0].messages[:-1]
    first = [
        Case([*task, {"role": "user", "content": record["text"]}], {})
        for record in records[: args.warm_up]
    ]
    rounds = [cases[start :: args.rounds] for start in range(args.rounds)]
    copying = snips_schema(args.data)
    intents = {part["properties"]["intent"]["const"] for part in copying["anyOf"]}
    intent_only = {**frame_schema({}), "anyOf": [
        {"type": "object", "properties": {"intent": {"const": i}, "slots": {"const": {}}},
         "required": ["intent", "slots"], "additionalProperties": False} for i in sorted(intents)
    ]}  # fmt: skip
    # The last one's answers are shorter: a bound, not a comparison.
    schemas = {"no schema": None, "copied slots": copying, "free slots": without_copies(copying),
               "intent only": intent_only}  # fmt: skip
    sides = {name: Side(name, schema) for name, schema in schemas.items()}
    flags = [] if args.drafts else ["--no-drafts"]
    with serving(["models/pilotfish"], *flags) as (server, port):
        answering = Answering(port)
        for num_clients in args.clients:
            turn = f"{num_clients} clients"
            for side in sides.values():
                answering.measure(side.bodies(first, turn), num_clients)
            found: dict[str, list[float]] = {name: [] for name in sides}
            for asked in rounds:
                for name, side in sides.items():
                    found[name].append(answering.measure(side.bodies(asked, turn), num_clients))
            print(f"pilotfish, {turn}, {len(cases)} requests")
            plain = statistics.median(found["no schema"])
            for name, times in found.items():
                each = statistics.median(times)
                ratios = [a / b for a, b in zip(found["no schema"], times, strict=True)]
                print(f"  {name:12} {each * 1000:7.2f} ms per answer  {plain / each:5.2f} x"
                      f"  ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
        first_tokens(answering, sides, first, rounds, server.pid)


def first_tokens(
    answering: Answering,
    sides: dict[str, Side],
    first: list[Case],
    rounds: list[list[Case]],
    server_pid: int,
) -> None:
    """Prints the median time to the first token of each side, and CPU time of whole answers."""
    pids = (server_pid, child_of(server_pid))
    times: dict[str, list[float]] = {name: [] for name in sides}
    costs: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
    for side in sides.values():
        answering.first_tokens(side.bodies(first, "first", stream=True))
    for asked in rounds:
        for name, side in sides.items():
            bodies = side.bodies(asked, "first", stream=True)
            before = [cpu_s(pid) for pid in pids]
            found = answering.first_tokens(bodies)
            after = [cpu_s(pid) for pid in pids]
            times[name] += found
            costs[name].append(
                tuple((a - b) / len(found) for a, b in zip(after, before, strict=True))
            )
    print("time to the first token, CPU time of an answer in the HTTP process and in the engine")
    plain = statistics.median(times["no schema"])
    for name, seconds in times.items():
        each = statistics.median(seconds)
        http_s, engine_s = (statistics.median(part) for part in zip(*costs[name], strict=True))
        print(
            f"  {name:12} {each * 1000:6.2f} ms  {(each - plain) * 1000:+6.2f}"
            f"  {http_s * 1000:6.2f} ms  {engine_s * 1000:6.2f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    masking = commands.add_parser("masks")
    masking.set_defaults(run=masks)
    masking.add_argument("--model", type=Path, required=True)
    masking.add_argument("--clients", type=int, default=32)
    masking.add_argument("--tokens", type=int, default=200, help="of each sequence")
    masking.add_argument("--temperature", type=float, default=1.0)
    masking.add_argument("--top-p", type=float, default=1.0, help="below 1: masked before a draw")
    masking.add_argument(
        "--sharing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="may sequences use what others found, as requests do by default?",
    )
    masking.add_argument("--threads", type=int, default=0, help="of the engine; 0: all cores")
    forcing = commands.add_parser("forced")
    forcing.set_defaults(run=forced)
    forcing.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    forcing.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    forcing.add_argument("--warm-up", type=int, default=500, help="requests that do not count")
    forcing.add_argument("--drafts", action=argparse.BooleanOptionalAction, default=True)
    for command in (masking, forcing):
        command.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
