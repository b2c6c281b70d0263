"""Drafts through the real engine and runner: the same tokens, ends and failures as one after the
other, whatever a sequence is sampled with.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.kernels.native import available
from shoal.protocol.messages import ModelSource, Submit
from shoal.protocol.params import SamplingParams, StopParams
from tests.conformance.served import write_tiny_llama
from tests.unit.runner.asking import Asked, make_submit, text_of
from tests.unit.runner.building import VOCAB, EchoBackend, EchoBestBackend
from tests.unit.runner.test_with_engine import serve

KERNELS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(not available(), reason="native kernels are not built")
    ),
    pytest.param("torch", marks=pytest.mark.slow),
]
SCHEMA = {
    "type": "object",
    "properties": {
        "first_of_the_names": {"type": "string", "maxLength": 30},
        "second_of_the_names": {"type": "string"},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 20},
    },
    "required": ["first_of_the_names", "second_of_the_names", "numbers"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = json.dumps({"grammars": [{"json_schema": SCHEMA}]})
WISHES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.2},
    "truncated": {"temperature": 0.4, "top_p": 0.9, "top_k": 20},
    "penalties": {"temperature": 0.0, "frequency_penalty": 0.01, "repetition_penalty": 1.01},
    "dry": {"temperature": 0.0, "dry_multiplier": 0.001},
    "no repeats": {"temperature": 0.0, "no_repeat_ngram_size": 9},
    "biased": {"temperature": 0.1, "logit_bias": ((65, 2.0), (66, -100.0))},
    "few allowed": {"temperature": 0.5, "allowed_token_ids": (65, 66, 67)},
    "late end": {"temperature": 0.0, "stop": {"min_tokens": 40, "stop_token_ids": (0, 1, 2)}},
    "grammar": {"temperature": 0.0, "grammar": JSON},
    "grammar, drawn": {"temperature": 0.3, "grammar": JSON},
    "grammar, truncated": {"temperature": 0.05, "top_p": 0.9, "grammar": JSON},
    "grammar, penalties": {"temperature": 0.0, "frequency_penalty": 0.01, "grammar": JSON},
    "grammar, biased": {"temperature": 0.0, "logit_bias": ((48, 2.0), (66, -100.0)),
                        "grammar": JSON},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Its attention adds little, so that it soon repeats itself."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny")
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        tensors[name] = tensor * np.float32(0.05 if "o_proj" in name else 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelSource("tiny", str(folder))


def submits_of(source: ModelSource, name: str, first_id: int = 0) -> list[Submit]:
    """Three sequences with these wishes."""
    wishes = {"grammar": None, **WISHES[name]}
    made = [make_submit(text_of(source), i, max_tokens=70, **wishes) for i in range(3)]
    return [msgspec.structs.replace(submit, seq_id=first_id + submit.seq_id) for submit in made]


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_kind_of_row_says_the_same_with_and_without(tiny: ModelSource, kernels: str) -> None:
    plain = Asked(tiny, kernels=kernels, drafts=False)
    alone = Asked(tiny, kernels=kernels, max_batch_size=1)
    small = Asked(tiny, kernels=kernels, max_batch_size=2, max_preemptions=1000,
                  max_model_len=160, kv_cache_bytes=10 << 13)  # fmt: skip
    for count, name in enumerate(WISHES):
        submits = submits_of(tiny, name, 10 * count)
        wanted = plain.run(*submits)
        before = alone.num_accepted
        for asked in (alone, small):
            assert asked.run(*submits) == wanted, name
            assert asked.finished == plain.finished
        assert alone.num_accepted > before, name
    assert plain.num_accepted == 0
    assert small.num_accepted > 0
    assert small.core.stats()[0].num_preemptions > 0


def test_rows_of_a_small_model_get_drafts_under_a_grammar_only(tiny: ModelSource) -> None:
    if not available():
        pytest.skip("native kernels are not built")
    plain, small = Asked(tiny, drafts=False), Asked(tiny, draft_weight_bytes=1 << 30)
    for count, name in enumerate(WISHES):
        before = small.num_accepted
        for submit in submits_of(tiny, name, 10 * count):
            assert small.run(submit) == plain.run(submit), name
        assert (small.num_accepted > before) == ("grammar" in WISHES[name]), name
    assert small.finished == plain.finished


def test_rows_of_all_kinds_step_together(tiny: ModelSource) -> None:
    if not available():
        pytest.skip("native kernels are not built")
    submits = [submits_of(tiny, name, 10 * count)[0] for count, name in enumerate(WISHES)]
    plain, few = Asked(tiny, drafts=False), Asked(tiny, max_batch_size=2)
    assert few.run(*submits) == plain.run(*submits)
    assert few.finished == plain.finished
    assert few.num_accepted > 0


def test_log_probabilities_change_no_text_and_no_draft_hides_them(tiny: ModelSource) -> None:
    if not available():
        pytest.skip("native kernels are not built")
    model = text_of(tiny)
    asked = Asked(tiny)
    silent = asked.run(make_submit(model, 1, grammar=None, temperature=0.0, max_tokens=90))[1]
    num_accepted = asked.num_accepted
    asked.forget()
    told = make_submit(model, 1, grammar=None, temperature=0.0, max_tokens=90, logprobs=0)
    assert asked.run(told)[1] == silent
    assert [entry.token_id for entry in asked.logprobs[1]] == silent
    assert 0 < num_accepted == asked.num_accepted, "a row with log-probabilities has drafts"


def submit(max_tokens: int = 50, **stop: Any) -> Submit:
    return Submit(1, "echo", [0, 1, 0, 1], SamplingParams(0, 0.0), StopParams(max_tokens, **stop))


@pytest.mark.parametrize("backend", [EchoBackend, EchoBestBackend])
def test_a_draft_whose_logits_are_no_numbers_fails_only_a_row_that_says_it(
    backend: type[EchoBackend],
) -> None:
    num_spoiled = 0
    for spoiled in range(3):
        (plain, _), (drafted, _) = (
            serve([(0, submit())], backend=backend(num_said=3, spoil={spoiled}), drafts=drafts)
            for drafts in (False, True)
        )
        assert drafted == plain
        finished = plain[1].finished
        assert finished is not None
        num_spoiled += finished.error_code == "numerical_error"
    assert num_spoiled > 0


def test_a_rejected_draft_leaves_nothing_behind() -> None:
    """Every position is computed again, in blocks of four and with neighbours."""
    for num_said in (2, 3, VOCAB):
        arrivals = [
            (i, msgspec.structs.replace(submit(), seq_id=i, prompt_token_ids=[i, 1, i, 1]))
            for i in range(2)
        ]
        plain, _ = serve(arrivals, backend=EchoBestBackend(num_said=num_said), drafts=False)
        drafted, runner = serve(arrivals, backend=EchoBestBackend(num_said=num_said))
        assert drafted == plain
        assert (runner.num_accepted > 0) == (num_said < VOCAB)


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["minnow", pytest.param("pilotfish", marks=pytest.mark.slow)])
def test_a_shipped_model_that_repeats_a_text_takes_fewer_steps(name: str) -> None:
    source = ModelSource(name, str(ROOT / "models" / name))
    model = text_of(source)
    said = "The cat sat on the mat. The dog sat on the log. "
    prompt = model.tokenizer.encode(said * 2 + "The cat sat")
    ask = Submit(1, name, prompt, SamplingParams(0, 0.0), StopParams(60))
    plain, asked = Asked(source, drafts=False), Asked(source)
    assert asked.run(ask) == plain.run(ask)
    assert asked.num_accepted > 0
    assert asked.num_steps == plain.num_steps - asked.num_accepted
