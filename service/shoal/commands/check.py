"""`shoal check`: loads one model as the server would and says in plain words what it is."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from shoal.checkpoint.files import ModelFiles
    from shoal.commands.measure import Speed
    from shoal.engine.core import EngineCore
    from shoal.protocol.messages import EngineConfig, ModelSource
    from shoal.protocol.step import LoadedRunner
    from shoal.runner.compare import Comparison, EmbeddingComparison
    from shoal.runner.describe import NetworkDescription
    from shoal.text.text_model import TextModel

SAMPLE_MESSAGES = ({"role": "user", "content": "Hello!"},)
SAMPLE_TEXT = "Once upon a time there was a small fish who wanted to see the whole sea."
CONTEXT_TOKENS = 1000
SHOWN_TEMPLATE_CHARS = 400


@dataclasses.dataclass(slots=True)
class Report:
    """What was found out, as far as one came."""

    name: str
    path: str
    usable: bool = False
    problem: str | None = None
    """Why it cannot be served, and what to do."""
    network: NetworkDescription | None = None
    text: dict[str, Any] = dataclasses.field(default_factory=dict)
    computes: dict[str, Any] = dataclasses.field(default_factory=dict)
    speed: Speed | None = None
    transformers: Comparison | EmbeddingComparison | None = None
    remarks: list[str] = dataclasses.field(default_factory=list)


def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Model folder or GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="As of `shoal serve`.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="NAME", help="As of `shoal serve`.")
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(metavar="NAME", help="As of `shoal serve`.")
    ] = None,
) -> None:
    """Load a model and say what it is, what computes it, how fast, and what is missing.

    Settings come from the same places as those of `shoal serve`. Where `transformers` is installed,
    the answers are compared with its own. Exit code 1 when the model cannot be served.
    """
    from shoal.checkpoint.find import parse_model
    from shoal.commands.serve import checked_settings
    from shoal.config import engine_config
    from shoal.errors import ConfigError

    flags = {"dtype": dtype, "quantize": quantize, "kernels": kernels}
    settings = checked_settings(config, {k: v for k, v in flags.items() if v is not None})
    try:
        source = parse_model(path, settings.models_dir)
    except ConfigError as error:
        fail(error.message)
    report = examine(source, engine_config(settings, (source,)))
    if as_json:
        json.dump(dataclasses.asdict(report), sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _show(report)
    if not report.usable:
        raise typer.Exit(1)


def examine(source: ModelSource, config: EngineConfig, *, measures: bool = True) -> Report:
    """Reads and loads one model, and if it `measures` compares it and takes its speed; a problem
    ends that and is reported."""
    import msgspec

    from shoal.checkpoint.open import open_model
    from shoal.commands.measure import measure_embedding_speed, measure_speed
    from shoal.engine.core import EngineCore
    from shoal.errors import ShoalError
    from shoal.runner.describe import describe_network
    from shoal.runner.load import check_model, load_runner
    from shoal.text.text_model import read_text_model

    report = Report(source.name, source.path)
    try:
        files = open_model(Path(source.path))
        text = read_text_model(files, source.name)
        report.text = _describe_text(text)
        report.network = describe_network(files, config)
        if report.network.generates:  # they are about answers
            report.remarks += text.remarks
        report.remarks += check_model(files, config)
        loaded = load_runner(source, config, config.kv_cache_bytes, lambda progress: None)
        report.computes = _describe_loaded(loaded, report.network, config.block_size)
        if not measures:
            report.usable = True
            return report
        if not loaded.loaded.generates:
            report.transformers = _compare_embedding(files, text, loaded, config, report)
            report.speed = measure_embedding_speed(loaded, config)
        else:
            # Made-up prompts make a model repeat itself, which drafts would take for speed.
            config = msgspec.structs.replace(config, drafts=False)
            core = EngineCore({source.name: loaded}, config, time.monotonic)
            report.transformers = _compare(files, text, core, report)
            report.speed = measure_speed(core, config)
    except ShoalError as error:
        report.problem = error.message
    compared = (
        report.transformers
    )  # quantized weights are not those that transformers computes with
    if compared is not None and config.quantize == "none" and not compared.agrees:
        report.problem = (
            "the answers differ from those of transformers, so this is a fault of Shoal: report it "
            "with the model's config, and compute with --kernels torch if that agrees"
        )
    report.usable = report.problem is None
    return report


def _compare(
    files: ModelFiles, text: TextModel, core: EngineCore, report: Report
) -> Comparison | None:
    """None, with a remark, where the comparison is not possible."""
    from shoal.commands.measure import answer
    from shoal.runner.compare import NUM_GREEDY, NUM_TOP, can_compare, compare_with_transformers

    if not can_compare(files.path):
        return None
    room = core.loaded_models[0].max_model_len - NUM_GREEDY
    prompt = text.tokenizer.encode(SAMPLE_TEXT)[: min(32, room)]
    if len(prompt) < 2:
        return None
    reports, greedy = answer(core, prompt, NUM_GREEDY, min(NUM_TOP, text.tokenizer.vocab_size))
    try:
        return compare_with_transformers(files.path, prompt, reports, greedy)
    except Exception as error:  # whatever another library says about a folder that we can read
        report.remarks.append(_not_compared(error))
        return None


def _compare_embedding(
    files: ModelFiles, text: TextModel, loaded: LoadedRunner, config: EngineConfig, report: Report
) -> EmbeddingComparison | None:
    """The same of the vector of a text."""
    import numpy as np

    from shoal.commands.measure import embed
    from shoal.runner.compare import can_compare, compare_embedding

    prompt = text.tokenizer.encode(SAMPLE_TEXT)[: loaded.loaded.max_model_len]
    if not can_compare(files.path) or not prompt:
        return None
    vector = np.frombuffer(embed(loaded, prompt, config), "<f4")
    try:
        return compare_embedding(files, prompt, vector)
    except Exception as error:  # as above
        report.remarks.append(_not_compared(error))
        return None


def _not_compared(error: Exception) -> str:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"not compared: transformers cannot load it: {reason[0][:200]}"


def _describe_text(text: TextModel) -> dict[str, Any]:
    from shoal.errors import ShoalError

    names = {i: text.tokenizer.token_name(i) for i in text.end_token_ids}
    rendered: str | None = None
    problem: str | None = None
    try:
        prompt = text.chat.render(
            SAMPLE_MESSAGES,
            given={},
            add_generation_prompt=True,
            continue_final_message=False,
            max_chars=100_000,
        )
        rendered = prompt.text
    except ShoalError as error:
        problem = error.message
    return {
        "vocab_size": text.tokenizer.vocab_size,
        "special_tokens": dict(sorted(text.tokenizer.special_names.items())),
        "end_tokens": names,
        "chat_sample": rendered,
        "chat_problem": problem,
        "defaults": text.defaults,
    }


def _describe_loaded(
    loaded: LoadedRunner, network: NetworkDescription, block_size: int
) -> dict[str, Any]:
    model = loaded.loaded
    if loaded.kv_memory is not None:  # what a block really takes, padding and states included
        token_bytes = loaded.kv_memory.block_bytes / block_size
    else:
        token_bytes = network.kv_numbers_per_token * (4 if model.dtype == "float32" else 2)
    return {
        "kernels": model.kernels,
        "reason": model.kernels_reason,
        "device": model.device,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "weight_bytes": model.weight_bytes,
        "kv_bytes_per_1000_tokens": round(token_bytes * CONTEXT_TOKENS),
        "max_model_len": model.max_model_len,
    }


# --- in words ------------------------------------------------------------------------------------


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{report.name}: {report.path}", markup=False, style="bold")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    from rich.text import Text

    for title, words in _lines(report):
        table.add_row(f"  {title}", Text(words))
    console.print(table)
    if report.problem is not None:
        console.print(f"cannot be served: {report.problem}", markup=False, style="red")
    else:
        console.print(f"usable: shoal serve {report.path}", markup=False, style="green")


def _lines(report: Report) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    if (network := report.network) is not None:
        lines += [
            (
                "family",
                f"{network.family}, {network.num_parameters / 1e6:,.1f} M parameters"
                + ("" if network.generates else ", an encoder: it writes no text"),
            ),
            (
                "network",
                f"{network.num_layers} layers, hidden size {network.hidden_size}, vocabulary "
                f"{network.vocab_size}, context {network.max_model_len}",
            ),
            ("features", "; ".join(network.features)),
        ]
        if network.embedding is not None:
            lines.append(("embeddings", _embedding_words(network, report)))
    if computes := report.computes:
        because = f", because {computes['reason']}" if computes["reason"] else ""
        what = "PyTorch" if computes["kernels"] == "torch" else f"native ({computes['kernels']})"
        quantized = "" if computes["quantization"] == "none" else f" {computes['quantization']}"
        kv = computes["kv_bytes_per_1000_tokens"]
        lines += [
            (
                "computes",
                f"{what} in {computes['dtype']}{quantized} on {computes['device']}{because}",
            ),
            (
                "memory",
                f"{computes['weight_bytes'] / 1e6:,.1f} MB of weights, {kv / 1e6:,.1f} MB for each "
                f"{CONTEXT_TOKENS:,} tokens of context",
            ),
        ]
    elif network is not None:
        because = f", because {network.kernels_reason}" if network.kernels_reason else ""
        lines.append(("computes", f"{network.kernels}{because}"))
    if (speed := report.speed) is not None:
        rows = ", ".join(f"{value:,.0f} with {rows}" for rows, value in speed.decode.items())
        decode = f"{rows} at once; " if rows else ""
        lines.append(("speed here", f"{decode}prompts {speed.prefill:,.0f} (tokens per second)"))
    if (text := report.text) and (network is None or network.generates):
        special = [f"{name} ({i})" for i, name in text["special_tokens"].items()]
        more = f" and {len(special) - 12} more" if len(special) > 12 else ""
        ends = [f"{name} ({i})" for i, name in text["end_tokens"].items()]
        sample = text["chat_sample"]
        lines += [
            ("special tokens", (", ".join(special[:12]) or "none") + more),
            ("ends with", ", ".join(ends) or "nothing: only max_tokens ends an answer"),
            (
                "chat",
                text["chat_problem"] if sample is None else sample[:SHOWN_TEMPLATE_CHARS],
            ),
        ]
    if (compared := report.transformers) is not None:
        lines.append(("transformers", _comparison_words(compared)))
    return lines + [("note", remark) for remark in report.remarks]


def _embedding_words(network: NetworkDescription, report: Report) -> str:
    longest = report.computes.get("max_model_len", network.max_model_len)
    return f"{network.embedding}; of texts of up to {longest} tokens, for search and comparison"


def _comparison_words(compared: Comparison | EmbeddingComparison) -> str:
    from shoal.runner.compare import NUM_GREEDY, Comparison

    if isinstance(compared, Comparison):
        return (
            f"log-probabilities differ by {compared.max_logprob_difference:.1g} at most over "
            f"{compared.num_positions} tokens; {compared.num_greedy_equal} of {NUM_GREEDY} "
            "greedy tokens equal"
        )
    return (
        f"the embedding of {compared.num_tokens} tokens differs by {compared.difference:.1g} of "
        "its length"
    )
