"""`shoal check` on tiny models: what it says, what it measures, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shoal.cli import build_app
from shoal.commands import check as check_command
from shoal.commands import measure
from shoal.runner import compare
from tests.fakes.tiny_encoders import ENCODERS, write_encoder
from tests.fakes.tiny_models import CONFIGS, write_tiny_model


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no ./shoal.toml
    monkeypatch.setattr(measure, "SECONDS", 0.05)


def check(*args: str) -> Result:
    return CliRunner().invoke(build_app(), ["check", *args], env={"COLUMNS": "150"})


def report(*args: str) -> dict[str, Any]:
    done = check(*args, "--json")
    values: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code == 0) == values["usable"]
    return values


def test_a_usable_model_is_described_in_words(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny", "qwen3", made_up_key=5)
    done = check("tiny")
    assert done.exit_code == 0, done.output
    for words in (
        "Qwen3ForCausalLM",
        "2 layers, hidden size 48, vocabulary 261, context 256",
        "attention with 6 heads of 16 sharing 2 of keys and values",
        "rms norm of queries and keys",
        "of weights",
        "for each 1,000 tokens of context",
        "with 1, ",
        "with 32 at once",
        "<|endoftext|> (256)",
        "<|user|>",
        "made_up_key",
        "usable: shoal serve tiny",
    ):
        assert words in done.output, words


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_answers_of_every_family_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    write_tiny_model(tmp_path / "tiny", kind)
    values = report("tiny", "--dtype", "float32")
    assert values["transformers"]["num_positions"] >= 20
    assert values["transformers"]["max_logprob_difference"] < 1e-3
    assert values["transformers"]["num_greedy_equal"] == 20


def test_figures_are_those_of_the_model(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    values = report(str(folder), "--dtype", "float32")
    parameters = values["network"]["num_parameters"]
    assert values["computes"]["weight_bytes"] >= 4 * parameters
    kv_bytes = 2 * 2 * (8 + 16) * 4 * 1000  # layers, heads, K and V; V in panels of 16
    if values["computes"]["kernels"] == "torch":
        kv_bytes = 2 * 2 * 2 * 8 * 4 * 1000
    assert values["computes"]["kv_bytes_per_1000_tokens"] == kv_bytes
    assert set(values["speed"]["decode"]) == {"1", "8", "32"}
    assert min(values["speed"]["decode"].values()) > 0
    assert values["speed"]["prefill"] > 0
    assert values["text"]["end_tokens"] == {"256": "<|endoftext|>"}
    assert "Hello!" in values["text"]["chat_sample"]


def test_answers_that_differ_from_transformers_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    write_tiny_model(tmp_path / "tiny")
    real = compare._Reference
    other = write_tiny_model(tmp_path / "other", seed=1)
    monkeypatch.setattr(compare, "_Reference", lambda path: real(other))
    values = report("tiny")
    assert not values["usable"]
    assert "the answers differ from those of transformers" in values["problem"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architectures must begin with one of"),
        ({"hidden_act": "swish2"}, "hidden_act"),
    ],
)
def test_what_cannot_be_served_is_said_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_tiny_model(tmp_path / "good")
    write_tiny_model(tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config | changes))
    done = check("tiny")
    assert done.exit_code == 1
    assert "cannot be served: " in done.output
    assert words in " ".join(done.output.split())
    assert "<|endoftext|>" in done.output, "what could be read is shown"


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path, words in (("gone", "gone does not exist"), ("notes.txt", "notes.txt is a file")):
        done = check(path)
        assert done.exit_code == 1
        assert words in done.output


def test_without_transformers_or_a_folder_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    values = report("tiny")
    assert values["usable"]
    assert values["transformers"] is None


def test_where_transformers_fails_the_model_is_still_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    write_tiny_model(tmp_path / "tiny")

    def fails(path: Path) -> None:
        raise ValueError("cannot be\nread")

    monkeypatch.setattr(compare, "_Reference", fails)
    values = report("tiny")
    assert values["usable"]
    assert "not compared: transformers cannot load it: cannot be" in values["remarks"]


def test_a_small_kv_cache_is_measured_as_far_as_it_reaches(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    (tmp_path / "shoal.toml").write_text("kv_cache_bytes = 1048576\nmax_batch_size = 8\n")
    assert set(report("tiny")["speed"]["decode"]) == {"1", "8"}


def test_every_part_of_a_report_can_be_shown() -> None:
    empty = check_command.Report("m", "m", problem="nothing")
    assert check_command._lines(empty) == []


# --- encoders ------------------------------------------------------------------------------------


def test_an_encoder_is_described_in_words(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_encoder(tmp_path / "tiny", files=True)
    done = check("tiny")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    for words in (
        "an encoder: it writes no text",
        "attention in both directions",
        "48 numbers, mean of all tokens, of length 1; of texts of up to 98 tokens",
        "the embedding of ",
        "tensors of tiny that are not used: pooler.dense.bias",
        "usable: shoal serve tiny",
    ):
        assert words in shown, words
    for words in ("ends with", "chat", "greedy", "at once"):
        assert words not in shown, words


@pytest.mark.parametrize("kind", ENCODERS)
def test_embeddings_of_every_family_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    write_encoder(tmp_path / "tiny", kind)
    values = report("tiny", "--dtype", "float32")
    assert values["transformers"]["num_tokens"] >= 20
    assert values["transformers"]["difference"] < 1e-5
    assert values["network"]["generates"] is False
    assert values["speed"]["prefill"] > 0


def test_an_embedding_that_differs_from_transformers_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    write_encoder(tmp_path / "tiny", files=True)
    other = write_encoder(tmp_path / "other", seed=1)
    real = compare._Reference
    monkeypatch.setattr(compare, "_Reference", lambda path, kind: real(other, kind))
    values = report("tiny")
    assert not values["usable"]
    assert "the answers differ from those of transformers" in values["problem"]
