"""Grammars through the real engine and runner: valid answers, and the same ones in any company,
in chunks, after a preemption, and whether forced tokens are taken at once or sampled one by one.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.kernels.native import available
from shoal.protocol.messages import Finished, ModelSource, StepOutputs, Submit
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.runner.vocabulary import read_vocabulary
from shoal.sampling.masks import MaskFiller
from shoal.sampling.processors.grammar import Grammar
from shoal.text.text_model import TextModel
from tests.conformance.served import write_tiny_llama
from tests.unit.runner import asking
from tests.unit.runner.asking import Asked, text_of

ROOT = Path(__file__).parents[3]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name_of_the_place": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["village", "village green", "town"]},
        "numbers": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["name_of_the_place", "kind", "numbers"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = json.dumps({"grammars": [{"json_schema": SCHEMA}]})
KERNELS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(not available(), reason="native kernels are not built")
    ),
    pytest.param("torch", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource("tiny", str(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny")))


def make_submit(model: TextModel, seq_id: int, *, grammar: str = JSON, **wishes: Any) -> Submit:
    return asking.make_submit(model, seq_id, grammar=grammar, **wishes)


def is_valid(text: str) -> bool:
    answer = json.loads(text)
    return (
        list(answer) == list(SCHEMA["properties"])
        and len(answer["name_of_the_place"]) <= 12
        and answer["kind"] in ("village", "village green", "town")
        and all(isinstance(n, int) and n <= 99 for n in answer["numbers"])
        and text == json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_answers_are_the_same_alone_crowded_in_chunks_and_preempted(
    tiny: ModelSource, kernels: str
) -> None:
    model = text_of(tiny)
    ids = range(1, 9)
    roomy = Asked(tiny, kernels=kernels)
    alone: dict[int, list[int]] = {}
    for i in ids:
        alone |= roomy.run(make_submit(model, i, max_tokens=150))
    ended = [i for i in ids if roomy.finished[i].reason is FinishReason.STOP]
    assert len(ended) >= 4
    crowd = [
        msgspec.structs.replace(make_submit(model, i, max_tokens=150), seq_id=100 + i) for i in ids
    ]
    assert list(roomy.run(*crowd).values()) == list(alone.values())
    small = Asked(tiny, kernels=kernels, token_budget=5, max_batch_size=4, max_preemptions=1000,
                  kv_cache_bytes=10 << 13, max_model_len=160)  # fmt: skip
    assert small.run(*(make_submit(model, i, max_tokens=150) for i in ids)) == alone
    assert small.core.stats()[0].num_preemptions > 0
    for i in ended:
        text = model.tokenizer.decode(alone[i])
        assert text.startswith('{"name_of_the_place":"')


@pytest.mark.parametrize("kernels", KERNELS)
def test_forced_tokens_are_those_that_are_sampled_with_log_probabilities(
    tiny: ModelSource, kernels: str
) -> None:
    model = text_of(tiny)
    taken, sampled = Asked(tiny, kernels=kernels), Asked(tiny, kernels=kernels)
    fast = taken.run(*(make_submit(model, i, max_tokens=120) for i in range(6)))
    slow = sampled.run(*(make_submit(model, i, max_tokens=120, logprobs=2) for i in range(6)))
    assert fast == slow
    assert taken.finished == sampled.finished
    assert taken.num_steps < 0.7 * sampled.num_steps
    for i in range(6):
        assert [entry.token_id for entry in sampled.logprobs[i]] == slow[i]


def test_log_probabilities_are_those_of_the_model_alone(tiny: ModelSource) -> None:
    """The same prompt and tokens without a grammar, read as a prompt's log-probabilities."""
    model = text_of(tiny)
    asked = Asked(tiny)
    submit = make_submit(model, 1, max_tokens=60, logprobs=0)
    tokens = asked.run(submit)[1]
    whole = [*submit.prompt_token_ids, *tokens]
    plain = Submit(
        2, "tiny", whole, SamplingParams(seed=1), StopParams(0), OutputParams(prompt_logprobs=0)
    )
    frames: list[StepOutputs] = []
    asked.core.add(plain)
    while 2 not in {seq_id for frame in frames for seq_id in frame.finished}:
        if (outputs := asked.core.step()) is not None:
            frames.append(outputs)
    (told,) = [frame.prompt_logprobs[2] for frame in frames if frame.prompt_logprobs]
    own = [entry.logprob for entry in told[len(submit.prompt_token_ids) :] if entry is not None]
    assert own == [entry.logprob for entry in asked.logprobs[1]]


def test_neighbours_without_a_grammar_are_not_touched(tiny: ModelSource) -> None:
    model = text_of(tiny)
    asked = Asked(tiny)
    plain = make_submit(model, 1, grammar="", max_tokens=40)
    free = SamplingParams(seed=1, temperature=1.5)
    plain = Submit(1, "tiny", plain.prompt_token_ids, free, plain.stop)
    alone = asked.run(plain)[1]
    again = Submit(50, "tiny", plain.prompt_token_ids, free, plain.stop)
    others = [make_submit(model, i, max_tokens=60) for i in range(2, 8)]
    assert asked.run(again, *others)[50] == alone


@pytest.mark.parametrize(
    ("lark", "wishes", "code"),
    [
        ('start: "abc"', {"logit_bias": ((ord("b"), -100.0),)}, "grammar_error"),
        ("start: <|nosuch|>", {}, "grammar_error"),
        ("start: a\na: b\nb: a", {}, "grammar_error"),
    ],
)
def test_a_grammar_that_cannot_be_followed_fails_its_row_only(
    tiny: ModelSource, lark: str, wishes: dict[str, Any], code: str
) -> None:
    model = text_of(tiny)
    asked = Asked(tiny)
    grammar = json.dumps({"grammars": [{"lark_grammar": lark}]})
    asked.run(make_submit(model, 1, grammar=grammar, **wishes), make_submit(model, 2))
    assert asked.finished[1].error_code == code
    assert asked.finished[2].reason is not FinishReason.ERROR


@pytest.mark.parametrize("min_tokens", [0, 3, 30])
def test_the_end_of_the_grammar_is_the_end_whatever_min_tokens_say(
    tiny: ModelSource, min_tokens: int
) -> None:
    model = text_of(tiny)
    asked = Asked(tiny)
    grammar = json.dumps({"grammars": [{"lark_grammar": 'start: "abcdef"'}]})
    tokens = asked.run(make_submit(model, 1, grammar=grammar, stop={"min_tokens": min_tokens}))[1]
    assert bytes(tokens) == b"abcdef"
    assert asked.finished[1] == Finished(FinishReason.STOP)


def test_an_optional_rest_may_be_ended_by_the_models_end_token(tiny: ModelSource) -> None:
    model = text_of(tiny)
    asked = Asked(tiny)
    grammar = json.dumps({"grammars": [{"lark_grammar": "start: /a+/"}]})
    bias = ((model.end_token_ids[0], 100.0),)
    tokens = asked.run(make_submit(model, 1, grammar=grammar, logit_bias=bias))[1]
    assert tokens == [ord("a"), model.end_token_ids[0]]
    assert asked.finished[1] == Finished(FinishReason.STOP)


def test_penalties_leave_forced_tokens_alone(tiny: ModelSource) -> None:
    model = text_of(tiny)
    wishes: dict[str, Any] = {"frequency_penalty": 2.0, "repetition_penalty": 3.0, "max_tokens": 80}
    taken, sampled = Asked(tiny), Asked(tiny)
    fast = taken.run(make_submit(model, 1, **wishes))
    assert fast == sampled.run(make_submit(model, 1, logprobs=0, **wishes))
    assert taken.num_steps < sampled.num_steps


@pytest.mark.parametrize("beyond", [0, 1])
def test_ids_beyond_the_vocabulary_are_never_said(tiny: ModelSource, beyond: int) -> None:
    """Of the end, and of copies where there is no text."""
    model = text_of(tiny)
    asked = Asked(tiny)
    num_ids = open_model(Path(tiny.path)).config["vocab_size"]
    lark = f'start: "ab" <[{num_ids + beyond}]>'
    grammar = json.dumps({"grammars": [{"lark_grammar": lark}]})
    tokens = asked.run(make_submit(model, 1, grammar=grammar))[1]
    assert tokens[:2] == [*b"ab"]
    assert max(tokens) < num_ids
    code = asked.finished[1].error_code
    assert code == ("grammar_error" if beyond else None)


@pytest.mark.parametrize("name", ["minnow", pytest.param("pilotfish", marks=pytest.mark.slow)])
def test_a_shipped_model_answers_valid_json(name: str) -> None:
    source = ModelSource(name, str(ROOT / "models" / name))
    model = text_of(source)
    asked = Asked(source)
    answers = asked.run(*(make_submit(model, i, temperature=1.0) for i in range(12)))
    for i, tokens in answers.items():
        if asked.finished[i].reason is FinishReason.STOP:
            assert is_valid(model.tokenizer.decode(tokens))
    assert sum(f.reason is FinishReason.STOP for f in asked.finished.values()) >= 10
    again = (make_submit(model, i, temperature=1.0, logprobs=0) for i in range(12))
    sampled = asked.run(*(msgspec.structs.replace(s, seq_id=100 + s.seq_id) for s in again))
    assert list(sampled.values()) == list(answers.values())


def test_the_vocabulary_spells_what_the_tokenizer_does(tiny: ModelSource) -> None:
    model = text_of(tiny)
    files = open_model(Path(tiny.path))
    vocabulary = read_vocabulary(files.tokenizer, 257)
    assert [*map(bytes, vocabulary.token_bytes)] == [
        model.tokenizer.bytes_of(i) for i in range(257)
    ]
    assert vocabulary.encode(" a<|end|>") == list(b" a<|end|>")


def test_a_tokenizer_that_spells_no_exact_text_is_refused(tiny: ModelSource) -> None:
    from tokenizers import Tokenizer, decoders

    files = open_model(Path(tiny.path)).tokenizer
    definition = files.definition()
    library = Tokenizer.from_str(
        definition if isinstance(definition, str) else json.dumps(definition)
    )
    library.decoder = decoders.WordPiece()
    from shoal.checkpoint.files import TokenizerFiles

    with pytest.raises(ModelFolderError, match="spaces between its tokens"):
        read_vocabulary(TokenizerFiles(library.to_str, {}, "tiny"), 257)


def test_no_grammar_is_asked_while_its_mask_is_computed_beside(
    tiny: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once would change the same matcher."""
    model, computed = text_of(tiny), set[int]()
    start, join, expected = MaskFiller.start, MaskFiller.join, Grammar.expected
    num_started = 0

    def starting(filler: MaskFiller, grammars: list[Grammar]) -> None:
        nonlocal num_started
        computed.update(map(id, grammars))
        start(filler, grammars)
        num_started += len(filler._filling)

    def joining(filler: MaskFiller) -> None:
        join(filler)
        computed.clear()

    def expecting(grammar: Grammar, most: int) -> list[int]:
        assert id(grammar) not in computed
        return expected(grammar, most)

    def submits(first: int) -> list[Submit]:
        return [make_submit(model, first + i, top_p=0.9) for i in range(2)]

    alone = Asked(tiny, drafts=False, num_threads=1)
    wanted = [[*alone.run(submit).values()] for submit in submits(1)]
    monkeypatch.setattr(MaskFiller, "start", starting)
    monkeypatch.setattr(MaskFiller, "join", joining)
    monkeypatch.setattr(Grammar, "expected", expecting)
    asked = Asked(tiny, num_threads=4)
    for _ in range(3):  # they learn from each other
        assert [[tokens] for tokens in asked.run(*submits(1)).values()] == wanted
        asked.forget()
    assert num_started > 0
    assert asked.num_accepted > 0
