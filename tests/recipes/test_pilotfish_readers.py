"""pilotfish's formats: what a document contains, and what its variants must keep."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from models.recipes.pilotfish.answers import answer_json, slots_object
from models.recipes.pilotfish.readers import (
    disturb,
    read_dialogue_state,
    read_dialogue_turns,
    read_intents,
    read_out_of_scope,
    read_snips,
    swap_values,
)
from models.recipes.pilotfish.slot_values import (
    SlotValues,
    common_words,
    invented,
    mixed,
    titles_by_slot,
)
from shoal.train.config import RecipeError, Source
from shoal.train.pieces import ReadContext, Variant
from tests.train.builders import write_jsonl

CONTEXT = ReadContext(Path(), ())

SNIPS = {
    "text": "add nuba to my Metal Party playlist",
    "intent": "AddToPlaylist",
    "slots": [
        {"slot": "entity_name", "value": "nuba", "start": 4},
        {"slot": "playlist_owner", "value": "my", "start": 12},
        {"slot": "playlist", "value": "Metal Party", "start": 15},
    ],
    "split": "train",
}
OTHER = {
    "text": "put Unbound into found them first",
    "intent": "AddToPlaylist",
    "slots": [
        {"slot": "entity_name", "value": "Unbound", "start": 4},
        {"slot": "playlist", "value": "found them first", "start": 17},
    ],
    "split": "train",
}


def answer_of(variant: Variant) -> dict[str, object]:
    text = "".join(segment.text for segment in variant).split("<|assistant|>")[1]
    answer: dict[str, object] = json.loads(text.removesuffix("<|end|>"))
    return answer


def request_of(variant: Variant) -> str:
    user = next(segment.text for segment in variant if segment.text.startswith("<|user|>"))
    return user.removeprefix("<|user|>").removesuffix("<|end|>")


def test_swapped_slot_values_stay_verbatim_in_the_request() -> None:
    values = SlotValues([SNIPS, OTHER], ["playlist"], {"playlist": ["Ultrasound"]})
    texts = set()
    for seed in range(40):
        text, slots = swap_values(
            str(SNIPS["text"]),
            SNIPS["slots"],  # type: ignore[arg-type]
            values,
            random.Random(seed),
        )
        texts.add(text)
        for slot in slots:
            assert text[slot["start"] :].startswith(slot["value"])
    assert len(texts) > 5
    assert any("ultrasound" in text.lower() for text in texts)
    drawn = {values.draw("playlist_owner", "x", random.Random(seed)) for seed in range(40)}
    assert drawn == {"my", "x"}  # a closed slot takes observed values only


def test_mixed_values_are_a_beginning_and_an_end() -> None:
    names = {mixed("Magic Sam", "Bill Szymczyk", random.Random(seed)) for seed in range(9)}
    assert names == {"Magic Szymczyk"}
    assert mixed("Haigler", "Emmons", random.Random(1)) == "Haions"
    assert mixed("Bath", "If You Say So", random.Random(1)) == "BaSay So"


def test_titles_go_to_the_slot_that_their_first_sentence_names() -> None:
    articles = [
        ("Genesis (band)", "Genesis are an English rock band formed at a school in Surrey."),
        ("Joseph Cotten", "Joseph Cotten (1905 - 1994) was an American film actor."),
        ("Lincoln, New Hampshire", "Lincoln is a town in Grafton County."),
        ("Alien (film)", "Alien is a 1979 animated film directed by someone."),
        ("Nothing", "Nothing much."),
    ]
    records = [{"title": title, "text": text} for title, text in articles]
    nouns = {"artist": ["band", "singer"], "city": ["town"], "movie_name": ["film"]}
    assert titles_by_slot(records, nouns) == {
        "artist": ["Genesis"],
        "city": ["Lincoln"],
        "movie_name": ["Alien"],
        "": ["Joseph Cotten", "Nothing"],
    }


def test_words_of_texts_are_those_that_occur_three_times_and_make_invented_names() -> None:
    records = [{"text": "A corner, a well-known corner."}, {"text": "The corner isn't well-known."}]
    assert common_words(records) == ["corner"]
    assert common_words([*records, *records]) == ["corner", "well-known"]
    slots = [{"slot": "track", "value": "Old Song", "start": 0}]
    values = SlotValues([{"slots": slots}], ["track"], words=["astronaut"])
    drawn = {values.draw("track", "Old Song", random.Random(seed)) for seed in range(400)}
    assert any("astronaut" in name.lower() for name in drawn)


def test_invented_names_look_like_the_others_and_are_none_of_them() -> None:
    names = ["Andy Hunter", "Tierney Sutton", "Toyan", "Allen Toussaint", "Too Poetic!"]
    drawn = [invented(names, [], random.Random(seed)) for seed in range(300)]
    assert all(name and name == name.strip() and len(name.split()) <= 2 for name in drawn)
    assert not any(name[-1] in ".,:;!?" for name in drawn)
    first, last = {"andy", "tierney", "allen", "too"}, {"hunter", "sutton", "toussaint", "poetic"}
    two = [name.lower().split() for name in drawn if " " in name]
    assert not any(words[0] in last or words[1] in first for words in two)
    rare = ["Zugspitze", "quux"]
    drawn = [invented(names, rare, random.Random(seed)) for seed in range(300)]
    used = {word for name in drawn for word in name.lower().split()}
    assert {"zugspitze", "quux", "hunter", "andy"} <= used
    assert any(word.endswith("pitze") and not word.startswith("zug") for word in used)
    assert len(used) > 60


def test_every_snips_variant_answers_with_values_of_its_own_request() -> None:
    source = Source(file="s", options={"task": "snips"})
    for variants in read_snips([SNIPS, OTHER], source, CONTEXT):
        for variant in variants:
            answer = answer_of(variant)
            assert answer["intent"] == "AddToPlaylist"
            for value in dict(answer["slots"]).values():  # type: ignore[call-overload]
                assert value in request_of(variant)
        assert variants[0][1].text == "<|system|>snips<|end|>"
        assert variants[7][1].text.startswith("<|user|>")  # some variants name no task


def test_repeated_slots_become_a_list_in_the_order_of_the_text() -> None:
    slots = [
        {"slot": "artist", "value": "B", "start": 9},
        {"slot": "artist", "value": "A", "start": 2},
    ]
    assert slots_object(slots) == {"artist": ["A", "B"]}


def test_answers_have_one_form_without_spaces() -> None:
    assert answer_json("a", {"b": "ü"}) == '{"intent":"a","slots":{"b":"ü"}}'


def test_disturbed_requests_keep_most_words() -> None:
    text = "how do i change the pin of my new card"
    for seed in range(50):
        words = set(disturb(text, random.Random(seed)).lower().rstrip("?").split())
        assert len(words & set(text.split())) >= 5


def test_intents_keep_their_label_through_every_variant() -> None:
    record = {"text": "What is my balance?", "intent": "balance"}
    (variants,) = read_intents([record], Source(file="c", options={"task": "clinc"}), CONTEXT)
    assert {json.dumps(answer_of(variant)) for variant in variants} == {
        '{"intent": "balance", "slots": {}}'
    }
    assert request_of(variants[0]) == "What is my balance?"
    in_loss = [
        "".join(segment.text for segment in variant if segment.in_loss) for variant in variants
    ]
    assert in_loss[0] == '{"intent":"balance","slots":{}}<|end|>'
    assert in_loss[1] == "balance"  # the rest is always the same


def test_dialogue_state_lists_slots_in_the_order_of_the_text() -> None:
    state = {
        "service": "Restaurants_1",
        "intent": "FindRestaurants",
        "slots": {"city": "Berkeley", "cuisine": "Thai", "has_live_music": "True"},
    }
    turn = {"speaker": "user", "text": "Thai food in Berkeley with music", "state": [state]}
    (variants,) = read_dialogue_state([{"turns": [turn]}], Source(file="d"), CONTEXT)
    slots = dict(answer_of(variants[0])["slots"])  # type: ignore[call-overload]
    assert list(slots) == ["cuisine", "city", "has_live_music"]


def test_questions_and_foreign_services_are_out_of_scope() -> None:
    asked = Source(file="w", format="out-of-scope", options={"questions": ["who was {}"]})
    (variants,) = read_out_of_scope([{"id": 1, "title": "Ada Lovelace"}], asked, CONTEXT)
    assert request_of(variants[0]) == "who was ada lovelace"
    assert answer_of(variants[0]) == {"intent": "oos", "slots": {}}
    homes = Source(file="d", format="out-of-scope", options={"services": ["Homes_1"]})
    turns = [{"text": "Find me a flat", "speaker": "user"}]
    records = [{"services": ["Homes_1"], "turns": turns}, {"services": ["Banks_1"], "turns": turns}]
    assert len(list(read_out_of_scope(records, homes, CONTEXT))) == 1


def test_titles_come_from_a_source_of_the_recipe(tmp_path: Path) -> None:
    article = {"title": "Zork (band)", "text": "Zork are a rock band from Leeds."}
    write_jsonl(tmp_path / "articles.jsonl", [article])
    options = {
        "open_slots": ["playlist"],
        "titles_from": "articles.jsonl",
        "titles": {"playlist": ["band"]},
    }
    source = Source(file="s", options=options)
    sources = (source, Source(file="articles.jsonl"))
    (variants,) = read_snips([SNIPS], source, ReadContext(tmp_path, sources))
    assert any("zork" in request_of(variant).lower() for variant in variants)
    with pytest.raises(RecipeError, match="not the file of a source"):
        list(read_snips([SNIPS], source, ReadContext(tmp_path, (source,))))
    (held_out,) = read_snips([SNIPS], source, ReadContext(tmp_path, (), held_out=True))
    assert {request_of(variant) for variant in held_out} == {SNIPS["text"]}


def test_dialogue_turns_are_plain_text() -> None:
    record = {"turns": [{"text": "Hi."}, {"text": "Hello."}]}
    ((variant,),) = read_dialogue_turns([record], Source(file="d"), CONTEXT)
    assert variant[1].text == "Hi.\nHello.<|endoftext|>"
