"""The comparison as a program: `python -m tests.benchmarks.peers --help`.

Prepares models and peers, runs all servers in turn for several rounds, prints medians, ratios and
marks, and writes `peers.json` and `peers.png`. Loads only servers it started itself, on loopback.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from shoal.commands.machine import describe

from . import llama_server, openvino, ours, plot, report, same_model, vllm
from .measure import (
    Level,
    LevelResult,
    StartResult,
    Window,
    fastest,
    levels,
    run_server,
    start_only,
)
from .process import Contender, ServerFailed, Unavailable
from .shapes import ROOT, SHAPES, Shape, model_folder

PEERS = ("llama-server", "openvino", "vllm")
Results = tuple[list[StartResult], list[LevelResult]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One server's part of a round, ready to run. `once`: in the first round only, because no
    mark hangs on it or because its start takes longer than all its levels."""

    name: str
    settings: str
    run: Callable[[Window], Results]
    once: bool = False


def main() -> None:
    options = _parser().parse_args()
    # A killed comparison ends as an interrupted one does: through the blocks that end servers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.out.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    if options.verify:
        _verify(options, notes)
    environment = {
        **describe(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if environment["load_before"] > environment["usable_cores"] / 4:
        notes.append(f"the machine was busy before: load {environment['load_before']}")
    figures = report.Figures([], [], {}, notes)
    for name in options.shapes:
        shape = _with_load(SHAPES[name], options)
        clients = [count for count in options.clients if count <= max(shape.clients)]
        turns = _turns(shape, clients, options, notes)
        for number in range(options.rounds if shape.load.waves is None else options.large_rounds):
            # Turned round each time, so that no server always runs first.
            for turn in turns if number % 2 == 0 else turns[::-1]:
                if number == 0 or not turn.once:
                    _run(turn, Window(options.duration, number), figures)
        load = shape.load
        figures.settings[f"load, {shape.name}"] = f"{load.words} words in, {load.tokens} tokens out"
        figures.settings.update({turn.name: turn.settings for turn in turns})
    for number in range(options.rounds):
        _start_default_models(number, figures)
    print("\n" + report.as_text(figures))
    document = json.dumps(report.as_json(figures, environment), indent=1)
    (options.out / "peers.json").write_text(document + "\n", encoding="utf-8")
    if figures.levels:
        title = f"{environment['cpu_model']}, {environment['usable_cores']:g} cores"
        plot.draw(figures.levels, title, options.out / "peers.png")


def _run(turn: Turn, window: Window, figures: report.Figures) -> None:
    try:
        starts, results = turn.run(window)
    except ServerFailed as error:
        figures.notes.append(f"{turn.name}, round {window.round}: {error}")
        return
    figures.starts.extend(starts)
    figures.levels.extend(results)
    rates = ", ".join(
        f"{result.clients}{'' if result.streamed else ' plain'}: {result.tokens_per_s:,.0f}"
        for result in results
    )
    shape = results[0].shape
    print(f"{shape}, round {window.round}, {turn.name}: {rates} tokens/s", flush=True)


def _start_default_models(number: int, figures: report.Figures) -> None:
    try:
        first_token_s, memory = start_only(*ours.default_models())
    except ServerFailed as error:
        figures.notes.append(f"default models, start {number}: {error}")
        return
    figures.starts.append(
        StartResult("Shoal", report.DEFAULT_MODELS, number, 1, first_token_s, memory, memory)
    )


def _turns(
    shape: Shape, clients: list[int], options: argparse.Namespace, notes: list[str]
) -> list[Turn]:
    model_folder(shape)
    wanted = levels(clients)
    turns = [_server_turn(contender, shape, wanted) for contender in ours.contenders()]
    makers = {"llama-server": _llama_server, "openvino": _openvino, "vllm": _vllm}
    for peer in options.peers:
        try:
            turns += makers[peer](shape, wanted, options, notes)
        except (Unavailable, ServerFailed) as error:
            notes.append(f"{shape.name}: {peer} is left out: {error}")
            print(notes[-1], flush=True)
    return turns


def _server_turn(contender: Contender, shape: Shape, wanted: list[Level]) -> Turn:
    def run(window: Window) -> Results:
        return run_server(contender, shape, wanted, window)

    without_mark = contender.weights == "int8" and shape.load.waves is None
    once = without_mark or contender.family == "vllm"
    return Turn(contender.name, contender.settings, run, once)


def _llama_server(
    shape: Shape, wanted: list[Level], options: argparse.Namespace, notes: list[str]
) -> list[Turn]:
    server = llama_server.find_server(options.llama_server)
    variant = next(iter(llama_server.VARIANTS))
    if options.tune and shape.load.waves is None:
        candidates = {
            name: llama_server.contenders(server, name)[0] for name in llama_server.VARIANTS
        }
        variant, rates = fastest(candidates, shape, options.tune_clients, options.duration)
        notes.append(_tuned("llama-server", shape, options.tune_clients, rates))
        options.llama_variant = variant
    variant = options.llama_variant or variant
    if (text := f"llama-server is {llama_server.version(server)}") not in notes:
        notes.append(text)
    return [_server_turn(c, shape, wanted) for c in llama_server.contenders(server, variant)]


def _openvino(
    shape: Shape, wanted: list[Level], options: argparse.Namespace, notes: list[str]
) -> list[Turn]:
    openvino.install()
    batches = sorted({level.clients for level in wanted})
    variant = options.openvino_variant
    if options.tune and shape.load.waves is None:
        variant, rates = openvino.best_variant(shape, options.tune_clients, options.duration)
        notes.append(_tuned("OpenVINO GenAI", shape, options.tune_clients, rates))
        options.openvino_variant = variant
    turns = []
    for weights in openvino.WEIGHTS if shape.load.waves is None else openvino.WEIGHTS[:1]:
        openvino.model(shape, weights)

        def run(window: Window, weights: openvino.Weights = weights) -> Results:
            return openvino.run(shape, weights, variant, batches, window)

        settings = f"{openvino.SETTINGS}, {variant}, in process, prefill counted"
        turns.append(Turn(f"OpenVINO GenAI {weights}", settings, run, weights == "int8"))
    return turns


def _vllm(
    shape: Shape, wanted: list[Level], options: argparse.Namespace, notes: list[str]
) -> list[Turn]:
    if options.install_vllm:
        vllm.install()
    python = vllm.find_python(options.vllm)
    return [_server_turn(c, shape, wanted) for c in vllm.contenders(python)]


def _tuned(name: str, shape: Shape, clients: int, rates: dict[str, float]) -> str:
    tried = ", ".join(f"{setting} {rate:,.0f}" for setting, rate in rates.items())
    return f"{name} settings tried on {shape.name} at {clients} clients, tokens/s: {tried}"


def _verify(options: argparse.Namespace, notes: list[str]) -> None:
    server = llama_server.find_server(options.llama_server)
    agreement = same_model.compare(server, "bf16")
    notes.append(
        f"greedy text of {same_model.MODEL.name} on llama-server and Shoal, bf16: "
        f"{agreement.equal} of {agreement.total} texts equal, {agreement.shared:.0%} of all "
        "characters before a first difference"
    )
    print(notes[-1], flush=True)


def _with_load(shape: Shape, options: argparse.Namespace) -> Shape:
    """The shape's own load, with what was asked for instead."""
    load = shape.load
    if options.words is not None:
        load = replace(load, words=options.words)
    if options.tokens is not None:
        load = replace(load, tokens=options.tokens)
    return replace(shape, load=load)


def _parser() -> argparse.ArgumentParser:
    def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := set(chosen) - set(known):
                raise argparse.ArgumentTypeError(f"{sorted(unknown)}: choose from {known}")
            return chosen

        return parse

    def counts(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.peers", description="Shoal beside other servers."
    )
    add = parser.add_argument
    add("--shapes", type=names(tuple(SHAPES)), default=list(SHAPES), help="14m,135m,0.5b")
    add("--clients", type=counts, default=[1, 8, 32, 128], help="numbers of clients")
    add("--peers", type=names(PEERS), default=list(PEERS), help=",".join(PEERS))
    add("--rounds", type=int, default=3, help="of the small shape, all servers in turn")
    add("--large-rounds", type=int, default=1, help="of the shapes that count in waves")
    add("--duration", type=float, default=4.0, help="seconds of sending per level")
    add("--out", type=Path, default=ROOT / "bench-results", help="folder of JSON and PNG")
    add("--words", type=int, help="words per prompt instead of the shape's own")
    add("--tokens", type=int, help="tokens per answer instead of the shape's own")
    add("--llama-server", type=Path, help="this program instead of building one")
    add("--vllm", type=Path, help="the Python of an environment with a CPU build")
    add("--install-vllm", action="store_true", help="a third party's CPU build, 3.5 GB")
    add("--tune", action=argparse.BooleanOptionalAction, default=True, help="try peers' settings")
    add("--tune-clients", type=int, default=32)
    add("--llama-variant", choices=list(llama_server.VARIANTS), help="instead of trying them")
    add("--openvino-variant", choices=list(openvino.VARIANTS), default="f32 hint")
    add("--verify", action=argparse.BooleanOptionalAction, default=True, help="same text first")
    return parser


if __name__ == "__main__":
    main()
