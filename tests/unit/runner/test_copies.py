"""Copies of the prompt through the real engine and runner: the same answers in any company, and
those of a grammar that has the words of the prompt as a part."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from shoal.protocol.messages import ModelSource, Submit
from shoal.protocol.params import FinishReason, SamplingParams, StopParams
from shoal.text.grammar.compile import compile_grammar
from shoal.text.grammar.spec import JsonSchema
from tests.unit.runner.asking import Asked, make_submit, text_of
from tests.unit.sampling.copy_grammars import copy_grammar, whole_grammar

PILOTFISH = ModelSource("pilotfish", str(Path(__file__).parents[3] / "models" / "pilotfish"))
COPY = {"type": "string", "x-copy": "prompt"}
REQUESTS = [
    "add Blue Train by John Coltrane to my jazz playlist",
    'book a table at "Chez Panisse" in Berkeley, CA for 4 people at 7:30 pm',
    "what will the weather be like in Zürich on the 3rd of May?",
    "play the song Don't Stop Me Now by Queen on Spotify",
    "rate this book 4 out of 5 stars",
    "find the movie schedule for The Red Shoes at the nearest cinema",
    "i want to hear something by Björk and Sigur Rós",
    "Is it going to rain in São Paulo\nor in Rio de Janeiro tomorrow?",
]


def test_copies_are_the_same_alone_crowded_preempted_reported_and_with_drafts() -> None:
    model = text_of(PILOTFISH)
    lists = {"type": "array", "items": COPY, "minItems": 2, "maxItems": 3}
    listed = {"type": "array", "items": {"anyOf": [COPY, lists]}, "minItems": 3, "maxItems": 4}
    slots = {"type": "object", "propertyNames": {"enum": ["name", "place"]},
             "additionalProperties": COPY, "maxProperties": 2}  # fmt: skip
    members = {"kind": {"enum": ["red", "reed"]}, "slots": slots, "list": listed}
    schema = {"type": "object", "properties": members, "required": [*members]}

    def submits(first_id: int, **wishes: Any) -> list[Submit]:
        found = []
        for i in range(6):
            text = f'number {i} of many "places" and of many other large places'
            compiled = asyncio.run(compile_grammar(JsonSchema(schema, "p"), model, text))
            submit = make_submit(model, i, grammar=None, max_tokens=110, **wishes)
            sampling = msgspec.structs.replace(submit.sampling, **compiled._asdict())
            found.append(msgspec.structs.replace(submit, seq_id=first_id + i, sampling=sampling))
        return found

    plain = Asked(PILOTFISH, drafts=False)
    alone = [plain.run(submit)[submit.seq_id] for submit in submits(0)]
    assert sum(f.reason is FinishReason.STOP for f in plain.finished.values()) >= 4
    asked = Asked(PILOTFISH)
    assert list(asked.run(*submits(10)).values()) == alone
    assert [asked.run(submit)[submit.seq_id] for submit in submits(20)] == alone
    assert list(asked.run(*submits(30, logprobs=0)).values()) == alone
    small = Asked(PILOTFISH, token_budget=8, max_batch_size=4, max_preemptions=1000,
                  kv_cache_bytes=10 * 16 * 2 * 6 * 128 * 2, max_model_len=160)  # fmt: skip
    assert list(small.run(*submits(40)).values()) == alone
    assert small.core.stats()[0].num_preemptions > 0
    cut = [plain.run(submit)[submit.seq_id] for submit in submits(50, top_k=20)]
    assert list(asked.run(*submits(60, top_k=20)).values()) == cut


def test_answers_are_those_of_a_grammar_with_the_words_of_the_prompt() -> None:
    """Where it forces the same tokens, as in the vocabulary of this model."""
    model = text_of(PILOTFISH)
    frames = {
        "AddToPlaylist": ["music_item", "artist", "playlist", "entity_name"],
        "BookRestaurant": ["restaurant_name", "city", "party_size_number", "timeRange", "state"],
        "GetWeather": ["city", "timeRange", "condition_description", "country"],
        "PlayMusic": ["artist", "track", "service", "album"],
        "RateBook": ["object_select", "object_type", "rating_value", "best_rating"],
        "SearchScreeningEvent": ["movie_name", "object_type", "location_name"],
    }
    lists = {"type": "array", "items": COPY, "minItems": 2, "maxItems": 8}
    schema = {"anyOf": [
        {"type": "object", "required": ["intent", "slots"], "properties": {
            "intent": {"const": intent}, "slots": {
                "type": "object", "propertyNames": {"enum": slots},
                "properties": {slots[0]: {"anyOf": [COPY, lists]}},
                "additionalProperties": COPY}}}
        for intent, slots in frames.items()
    ]}  # fmt: skip

    def submit(seq_id: int, text: str, *, whole: bool) -> Submit:
        chat = model.chat.render(
            [{"role": "user", "content": text}],
            given={}, add_generation_prompt=True, continue_final_message=False, max_chars=9999,
        )  # fmt: skip
        grammar = whole_grammar(schema, text) if whole else copy_grammar(schema)
        sampling = SamplingParams(0, 0.0, grammar=grammar, copy_text=None if whole else text)
        stop = StopParams(128, end_token_ids=model.end_token_ids)
        return Submit(seq_id, "pilotfish", model.chat.encode(chat), sampling, stop)

    asked = Asked(PILOTFISH)
    own = [submit(i, text, whole=False) for i, text in enumerate(REQUESTS)]
    reference = [submit(100 + i, text, whole=True) for i, text in enumerate(REQUESTS)]
    answers = [model.tokenizer.decode(ids) for ids in asked.run(*own).values()]
    assert answers == [model.tokenizer.decode(ids) for ids in asked.run(*reference).values()]
    assert all('":"' in answer[len('{"intent":"') :] for answer in answers)


def test_rows_learn_from_each_other_where_few_run() -> None:
    model = text_of(PILOTFISH)
    kinds = {"type": "array", "items": {"enum": ["red", "blue", "reed"]}, "minItems": 6}
    schema = {"type": "object", "properties": {"kinds": kinds, "what": COPY, "whose": COPY},
              "required": ["kinds", "what", "whose"]}  # fmt: skip

    def steps_of(asked: Asked, seq_id: int, num: int = 1) -> int:
        before = asked.num_steps
        asked.run(*(submit(seq_id + i) for i in range(num)))
        return asked.num_steps - before

    def submit(seq_id: int) -> Submit:
        """The first one shares nothing: until the grammar is compiled, rows come one by one."""
        made = make_submit(model, seq_id, grammar=copy_grammar(schema), copy_text="a red fish",
                           temperature=0.0)  # fmt: skip
        prompt = model.tokenizer.encode("red fish is")
        shares = seq_id > 0
        return msgspec.structs.replace(made, prompt_token_ids=prompt, use_prefix_cache=shares)

    def answer_of(asked: Asked, seq_id: int) -> str:
        return model.tokenizer.decode(asked.tokens[seq_id])

    alone, crowded = Asked(PILOTFISH), Asked(PILOTFISH)
    first = steps_of(alone, 0)
    assert steps_of(alone, 1) == steps_of(crowded, 0) == first
    taught = steps_of(alone, 2)
    assert taught < first
    steps_of(crowded, 1, 3)
    assert steps_of(crowded, 4) > taught, "three rows teach nothing but what the grammar forces"
    assert steps_of(crowded, 5) == taught
    assert {answer_of(crowded, i) for i in range(1, 6)} == {answer_of(alone, 1)}
