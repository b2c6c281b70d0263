"""A batch under grammars gets the tokens that each row gets alone from the sampler of numpy, whose
grammars are told and asked about every token, whatever others have found."""

import json
import random
from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.kernels.row_tracker import RowTracker
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.sampling import left_rows, mask_table
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.sampling.left_rows import LeftRows
from shoal.sampling.mask_table import MaskTable
from shoal.sampling.native import NativeSampler
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.sampler import Sampler, SamplingState
from tests.conformance.random_schemas import random_schema
from tests.unit.sampling.following import END_ID, NUM_IDS, TOKENS, encode
from tests.unit.sampling.test_free_text import FREE, LISTED, as_grammar, obj, without_limits

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

NUM_TOKENS = 90
STRING = {"type": "string"}
LONG: list[Any] = [
    {"type": "array", "minItems": 30, "items": STRING}, {**STRING, "minLength": 230},
    {"type": "array", "minItems": 30, "items": {**STRING, "minLength": 12}}, {"type": "object"},
    {"type": "array", "minItems": 30, "items": {"anyOf": [STRING, {"enum": ["the red den"]}]}},
]  # fmt: skip
ALIKE: list[Any] = [
    {"type": "array", "minItems": 60, "items": {"anyOf": [STRING, {"enum": ["zqan12"]}]}},
    {"type": "array", "minItems": 60, "items": obj(an=STRING, zq={"enum": ["zq", "an", 12]})},
    {"type": "array", "minItems": 60, "items": {
        "anyOf": [{**STRING, "minLength": 5}, {"enum": ["zqan12"]}]}},
    {"type": "object", "additionalProperties": STRING, "minProperties": 60},
    {"type": "array", "minItems": 60, "items": {
        "anyOf": [obj(an={"const": "zqan"}, zq=STRING), obj(an=STRING, zq={"enum": [12]})]}},
    "start: /(an|x|\\n)*/",
]  # fmt: skip
NUMBERS = {"type": "array", "minItems": 30, "items": {
    "anyOf": [obj(name={"type": "string"}, an={"type": "integer"}), {"enum": ["the red", 12, "an"]}]
}}  # fmt: skip
LARKS = [
    "start: /[a-z ]*/", 'start: ("<tool" /[a-z]/)* "::"',
    json.dumps({"grammars": [{"json_schema": {"enum": ["the red", "then", 12]}}]}),
]  # fmt: skip
WISHES: list[dict[str, Any]] = [
    {}, {"temperature": 0.0}, {"temperature": 0.6}, {"presence_penalty": 0.5},
    {"repetition_penalty": 1.3, "temperature": 0.0},
    {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.01, "temperature": 1.5},
]  # fmt: skip
WORDS_OF_TEXT = [TOKENS.index(word.encode()) for word in ("the", " the", " red", "an", "den", "12")]

LITTLE = [TOKENS.index(text) for text in (
    b'"', b"zq", b"an", b",", b'",', b'","', b'"}', b"{", b"[", b"]", b":", b"12", b"_call",
    b" red", b"z", b"1", b"\xc4", b"\x91", b"\\", b"n",
)]  # fmt: skip


def new_grammars() -> Grammars:
    return Grammars(lambda: Vocabulary(TOKENS, [END_ID], encode))


def as_text(schema: Any) -> str:
    if isinstance(schema, str):
        is_json = schema.startswith("{")
        return schema if is_json else json.dumps({"grammars": [{"lark_grammar": schema}]})
    return as_grammar(schema)


class Row:
    """One sequence, whose logits depend on its own past alone."""

    def __init__(
        self,
        seed: int,
        grammar: str,
        grammars: Grammars,
        shares_with: str | None,
        *,
        says_little: bool = False,
    ) -> None:
        """`says_little`: a few words."""
        self._twin = twin = seed // 3  # three say the same
        self.says_little = says_little
        rng = random.Random(twin)
        sampling = SamplingParams(seed=twin, grammar=grammar, **rng.choice(WISHES))
        output = OutputParams(logprobs=1 if rng.random() < 0.1 else None)
        end_ids = rng.choice([(END_ID,), (END_ID,), (END_ID, *b"\n"), (END_ID, *b"x")])
        stop = StopParams(999, end_token_ids=end_ids)
        self.new = NewRow(seed, [1], 1, [], sampling, stop, output, shares_with=shares_with)
        assert grammars.prepare(grammar).result() is None
        self.said: list[int] = []
        self.is_over = False
        self.come(grammars)

    def come(self, grammars: Grammars) -> None:
        """Again: as after a preemption."""
        self.new.token_ids[1:] = self.said
        self.state = SamplingState(self.new, NUM_IDS, grammars)
        assert self.state.grammar is not None
        self.grammar = self.state.grammar
        self.grammar.expect_nothing()

    def logits(self) -> np.ndarray:
        rng = np.random.default_rng([self._twin, len(self.said), *self.said[-2:]])
        if self.says_little:
            logits = rng.normal(-40, 1, NUM_IDS).astype(np.float32)
            logits[LITTLE] += 40
            logits[LITTLE[:3]] += 1.5
            logits[[END_ID, *b"x\n"]] += 39
            return logits
        logits = rng.normal(0, 1.5, NUM_IDS).astype(np.float32)
        logits[256:] += 2  # words
        logits[WORDS_OF_TEXT] += 3 * (self._twin % 3)  # some say longer strings than others
        logits[[*b'":,{}[]12']] += 2
        return logits

    def go_on(self, token_id: int, *, stopped: bool) -> None:
        """Behind a token that it accepted."""
        self.said.append(token_id)
        assert stopped == (not self.grammar.goes_on)
        if stopped and not self.grammar.failed:
            self.said += self.state.take_forced(999)
        self.is_over = self.grammar.ended or len(self.said) >= NUM_TOKENS


def step(sampler: Sampler, rows: list[Row], looked_into: Row | None = None) -> None:
    """`looked_into`: between its draw and its token, as for a trace."""
    states = [row.state for row in rows]
    logits = np.stack([row.logits() for row in rows])
    positions = np.array([len(row.said) for row in rows], np.int32)
    best = logits.argmax(axis=1).astype(np.int32)
    tokens = sampler.sample(logits, states, positions, best).tolist()
    assert min(tokens) >= 0
    if looked_into is not None:
        looked_into.grammar.catch_up()
    stopped = sampler.accept(states, tokens)
    for index, (row, token_id) in enumerate(zip(rows, tokens, strict=True)):
        row.go_on(token_id, stopped=index in stopped)


def step_further(sampler: Sampler, row: Row) -> None:
    """As behind a draft that holds."""
    logits, position = row.logits()[None], np.array([len(row.said)], np.int32)
    best = logits.argmax(axis=1).astype(np.int32)
    (token_id,) = sampler.sample(logits, [row.state], position, best).tolist()
    row.state.accept(token_id)
    sampler.told(row.state)
    row.go_on(token_id, stopped=not row.grammar.goes_on)


def alone(row: Row) -> list[int]:
    """What it says then."""
    text, little = row.new.sampling.grammar, row.says_little
    assert text is not None
    row = Row(row.new.seq_id, text, new_grammars(), None, says_little=little)
    sampler = NumpySampler(NUM_IDS)
    while not row.is_over:
        step(sampler, [row])
    return row.said


def run(rng: random.Random, grammars: Grammars, waiting: list[Row]) -> None:
    """Until all are finished, some at a time; each gets the tokens that it gets alone."""
    sampler, running, finished = NativeSampler(NUM_IDS), list[Row](), list[Row]()
    while running or waiting:
        if len(running) < 5:  # else they stay together
            while waiting and len(running) < 12:
                running.insert(rng.randrange(len(running) + 1), waiting.pop())
        if rng.random() < 0.01:
            rng.choice(running).come(grammars)
        if rng.random() < 0.01:
            grammars.forget()
        some = running if rng.random() < 0.98 else rng.sample(running, rng.randint(1, len(running)))
        step(sampler, some, rng.choice(some) if rng.random() < 0.1 else None)
        while rng.random() < (0.05 if waiting else 0.6) and not some[0].is_over:
            step_further(sampler, some[0])
        finished += [row for row in running if row.is_over]
        running = [row for row in running if not row.is_over]
    for row in finished:
        assert row.said == alone(row), row.new.seq_id


def be_forgetful(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, remember = random.Random(seed), LeftRows.remember

    def forget_first(self: LeftRows, tokens: Any) -> None:
        if rng.random() < 0.1:
            self.forget_places()
        remember(self, tokens)

    monkeypatch.setattr(LeftRows, "remember", forget_first)
    monkeypatch.setattr(left_rows, "_MOST_KNOWN", 4 + 15 * (seed % 4))
    monkeypatch.setattr(left_rows, "_MOST_TOKENS", 9)
    monkeypatch.setattr(left_rows, "_MOST_TABLES", 1 + seed % 2)
    monkeypatch.setattr(mask_table, "_MORE", 1)


@pytest.mark.parametrize("seed", range(len(LISTED)))
@pytest.mark.parametrize("is_forgetful", [False, True])
def test_each_row_gets_the_tokens_that_it_gets_alone(
    seed: int, is_forgetful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_forgetful:
        be_forgetful(seed, monkeypatch)
    rng, grammars = random.Random(seed), new_grammars()
    others = [*FREE, *LARKS, NUMBERS, *(without_limits(random_schema(n)) for n in range(8))]
    schemas = [LISTED[seed % len(LISTED)][0], rng.choice(others), LONG[seed % len(LONG)]]
    texts = [as_text(schema) for schema in schemas]
    chosen = [rng.choice(texts) for _ in range(27)]
    run(rng, grammars, [Row(999 * seed + n, chosen[n // 3], grammars, "all") for n in range(80)])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("is_forgetful", [False, True])
def test_so_do_rows_that_say_much_the_same(
    seed: int, is_forgetful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_forgetful:
        be_forgetful(seed, monkeypatch)
    grammars, text = new_grammars(), as_text(ALIKE[seed % len(ALIKE)])
    rows = [Row(999 * seed + n, text, grammars, "all", says_little=True) for n in range(45)]
    run(random.Random(seed), grammars, rows)


@pytest.mark.parametrize("wishes", [{}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_what_others_said_needs_no_look(
    wishes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows say the same one after the other, and at last other words; where text is forced behind
    a quote, twice, a look is due."""
    grammar = as_text(obj(name=STRING, an={"type": "array", "items": STRING, "minItems": 2}))
    answer = encode('{"name":"the red den","an":["den","the \u0111')
    other = encode('{"name":"red the the","an":["red","den \u0111')
    grammars, sampler, looks = new_grammars(), NativeSampler(NUM_IDS), list[int]()
    advance = LeftRows.advance

    def count(self: LeftRows, tokens: Any) -> list[int]:
        found = advance(self, tokens)
        looks[-1] += len(found)
        return found

    monkeypatch.setattr(LeftRows, "advance", count)
    assert grammars.prepare(grammar).result() is None
    stop = StopParams(99, end_token_ids=(END_ID,))
    for seq_id, said in enumerate([answer] * 5 + [other]):
        sampling = SamplingParams(seed=seq_id, grammar=grammar, **wishes)
        new = NewRow(seq_id, [1], 1, [], sampling, stop, OutputParams(), shares_with="all")
        state = SamplingState(new, NUM_IDS, grammars)
        assert state.grammar is not None
        state.grammar.expect_nothing()
        looks.append(0)
        position = len(state.take_forced(99))
        assert said[:position] == encode('{"name":')
        while position < len(said):
            logits = np.zeros((1, NUM_IDS), np.float32)
            logits[0, said[position]] = 90
            best = logits.argmax(axis=1).astype(np.int32)
            tokens = sampler.sample(logits, [state], np.array([position], np.int32), best).tolist()
            assert tokens == [said[position]]
            sampler.accept([state], tokens)
            position += 1 + len(state.take_forced(99))
        assert state.grammar.matcher.validate_tokens(encode('"]}')) == 3
    assert looks[0] > 6
    assert looks[3:] == [2] * 3


@pytest.mark.parametrize("changes_at", range(9))
@pytest.mark.parametrize(
    ("word", "next_text"), [(["zq", "an"], '"'), (["an"], "12"), (["zq"], "12")]
)
def test_no_token_is_lost_where_others_come(
    changes_at: int, word: list[str], next_text: str
) -> None:
    """What follows depends on the whole word."""
    grammar = as_text(ALIKE[4])
    grammars, sampler = new_grammars(), NativeSampler(NUM_IDS)
    assert grammars.prepare(grammar).result() is None
    answer = [*encode('[{"an":"'), *(TOKENS.index(part.encode()) for part in word), *encode('"')]
    stop = StopParams(99, end_token_ids=(END_ID,))
    new = NewRow(99, [1], 1, [], SamplingParams(seed=1), stop, OutputParams())
    other = SamplingState(new, NUM_IDS)
    for seq_id in range(4):
        sampling = SamplingParams(seed=seq_id, grammar=grammar)
        new = NewRow(seq_id, [1], 1, [], sampling, stop, OutputParams(), shares_with="all")
        state = SamplingState(new, NUM_IDS, grammars)
        assert state.grammar is not None
        state.grammar.expect_nothing()
        said = state.take_forced(99)
        num_steps = 0
        while len(said) < len(answer):
            states = [state, other] if num_steps >= changes_at else [state]
            logits = np.zeros((len(states), NUM_IDS), np.float32)
            logits[:, answer[len(said)]] = 90
            positions = np.full(len(states), len(said), np.int32)
            tokens = sampler.sample(logits, states, positions).tolist()
            assert tokens[0] == answer[len(said)]
            sampler.accept(states, tokens)
            said += [tokens[0], *state.take_forced(99)]
            num_steps += 1
        wanted = encode(',"zq":' + next_text)
        forced, rest = said[len(answer) :][: len(wanted)], wanted[len(said) - len(answer) :]
        assert forced + rest == wanted
        assert state.grammar.matcher.validate_tokens(rest) == len(rest)


@pytest.mark.parametrize("part", [MaskTable, RowTracker])
def test_where_a_batch_cannot_begin_the_next_ones_can(
    part: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars, sampler, begin = new_grammars(), NativeSampler(NUM_IDS), part.begin
    text = as_text(ALIKE[0])
    rows = [Row(n, text, grammars, "all", says_little=True) for n in range(9)]
    for _ in range(20):
        step(sampler, rows)

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(part, "begin", fail)
    with pytest.raises(MemoryError):
        step(sampler, [Row(99, text, grammars, "all"), *rows[2::-1]])
    monkeypatch.setattr(part, "begin", begin)
    for _ in range(20):
        step(sampler, rows := [row for row in rows if not row.is_over])
    for row in rows:
        assert row.said == alone(row)[: len(row.said)]
    assert rows


def test_a_token_ends_the_sequences_that_it_is_to_end() -> None:
    """To those before and behind it is text."""
    text = as_text("start: /(an|x|\\n)*/")
    grammars, sampler = new_grammars(), NativeSampler(NUM_IDS)
    assert grammars.prepare(text).result() is None
    for seq_id, end_ids in enumerate([(END_ID,), (END_ID, *b"x")] * 4):
        sampling, stop = SamplingParams(seed=1, grammar=text), StopParams(9, end_token_ids=end_ids)
        new = NewRow(seq_id, [1], 1, [], sampling, stop, OutputParams(), shares_with="all")
        state = SamplingState(new, NUM_IDS, grammars)
        assert state.grammar is not None
        state.grammar.expect_nothing()
        for position, token_id in enumerate(b"\nx"):
            logits = np.zeros((1, NUM_IDS), np.float32)
            logits[0, token_id] = 90
            tokens = sampler.sample(logits, [state], np.array([position], np.int32)).tolist()
            assert tokens == [token_id]
            stopped = sampler.accept([state], tokens)
            is_end = token_id in end_ids
            assert bool(stopped) == is_end == state.grammar.ended


@pytest.mark.parametrize("wishes", [{}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_a_known_mask_is_not_used_for_longer_than_it_stays(wishes: dict[str, Any]) -> None:
    """The token that ends a string comes with a space before the quote, one character early."""
    grammar, space_quote = as_text({**STRING, "minLength": 12}), TOKENS.index(b' "')
    grammars, sampler = new_grammars(), NativeSampler(NUM_IDS)
    assert grammars.prepare(grammar).result() is None
    for seq_id in range(3):  # the second one finds what the first one asked
        sampling = SamplingParams(seed=seq_id, grammar=grammar, **wishes)
        stop = StopParams(99, end_token_ids=(END_ID,))
        new = NewRow(seq_id, [1], 1, [], sampling, stop, OutputParams(), shares_with="all")
        state = SamplingState(new, NUM_IDS, grammars)
        assert state.grammar is not None
        state.grammar.expect_nothing()
        said = []
        for position in range(13):
            logits = np.zeros((1, NUM_IDS), np.float32)
            logits[0, ord("a") if position else ord('"')] = 50
            logits[0, space_quote] = 90 if position else 0  # refused but at last
            best = logits.argmax(axis=1).astype(np.int32)
            tokens = sampler.sample(logits, [state], np.array([position], np.int32), best).tolist()
            sampler.accept([state], tokens)
            said += tokens
        assert said == [ord('"'), *[ord("a")] * 11, space_quote]
        assert state.grammar.ended


def test_of_a_long_text_that_is_still_too_short_no_token_is_lost() -> None:
    grammars, sampler = new_grammars(), NativeSampler(NUM_IDS)
    rows = [Row(n, as_text({**STRING, "minLength": 300}), grammars, "all") for n in range(99)]
    rows = [row for row in rows if row.state.is_checked and row.grammar._has_places][:3]
    logits = np.zeros((3, NUM_IDS), np.float32)
    logits[:, ord("a")] = 50  # in front of it a quote is forced
    for position in range(151):
        states = [row.state for row in rows]
        sampler.sample(logits, states, np.full(3, position, np.int32))
        stopped = sampler.accept(states, [ord("a") if position else ord('"')] * 3)
        assert not stopped
    for row in rows:
        assert row.grammar.text.waits > 299 - 150  # while it is left
        row.grammar.catch_up()
        assert row.grammar.text.waits == 299 - 150
        assert row.grammar.matcher.consume_tokens(encode("b" * 150))
        assert row.grammar.matcher.validate_tokens(encode('"')) == 1
        assert row.grammar.matcher.consume_tokens(encode('"'))
