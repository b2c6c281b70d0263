"""Stories and commands: what a document says, and what its variants must keep."""

from __future__ import annotations

import json
import random

from shoal.train.commands import (
    answer_json,
    disturb,
    read_dialogue_state,
    read_intents,
    read_outside,
    read_snips,
    slots_object,
    swap_values,
)
from shoal.train.config import Source
from shoal.train.pieces import Variant
from shoal.train.stories import (
    read_books,
    read_encyclopaedia,
    read_stories,
    restore_capitals,
)
from shoal.train.values import ValuePools, common_words, invented, mixed, titles_by_slot

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
    text = "".join(piece.text for piece in variant).split("<|assistant|>")[1]
    found: dict[str, object] = json.loads(text.removesuffix("<|end|>"))
    return found


def request_of(variant: Variant) -> str:
    user = next(piece.text for piece in variant if piece.text.startswith("<|user|>"))
    return user.removeprefix("<|user|>").removesuffix("<|end|>")


def test_stories_are_read_plain_and_as_answers_some_with_another_name() -> None:
    stories = [f"There was a cat named {name}. {name} was sad." for name in ("Tim", "Max", "Tom")]
    records = [{"text": story} for story in stories]
    for story, variants in zip(stories, read_stories(records, Source(file="s")), strict=True):
        assert variants[0][1].text == story + "<|endoftext|>"
        asked = [variant for variant in variants if len(variant) > 2]
        assert len(asked) >= len(variants) / 2
        assert {answer[-1].text.removesuffix("<|end|>") for answer in asked} <= set(stories)
        for variant in asked:
            for name in ("Tim", "Max", "Tom"):
                assert name not in request_of(variant) or name in variant[-1].text


def test_capitals_come_back_at_starts_names_and_i() -> None:
    found = restore_capitals('once tim sat. "i am mom," said tim. he ran.', {"tim": "Tim"})
    assert found == 'Once Tim sat. "I am mom," said Tim. He ran.'


def test_books_are_cut_at_headings_and_lines_are_joined() -> None:
    part = "A fox saw\nsome grapes. " * 12
    found = list(read_books([{"text": f"## ONE\n\n{part}\n\n## TWO\n\n{part}"}], Source(file="b")))
    assert len(found) == 2
    assert found[0][0][1].text.startswith("A fox saw some grapes. A fox saw some grapes.")


def test_articles_give_whole_first_sentences() -> None:
    lead = "Hirta is an island. " + "It lies far out in the sea and nobody lives there now. " * 20
    record = {"text": lead + "More.", "lead_chars": len(lead)}
    ((variant,),) = read_encyclopaedia([record], Source(file="w"))
    text = variant[1].text.removesuffix("<|endoftext|>")
    assert lead.startswith(text)
    assert text.endswith("now.")
    assert 500 < len(text) <= 600


def test_swapped_slot_values_stay_verbatim_in_the_request() -> None:
    pools = ValuePools([SNIPS, OTHER], ["playlist"], {"playlist": ["Ultrasound"]})
    texts = set()
    for seed in range(40):
        text, slots = swap_values(
            str(SNIPS["text"]),
            SNIPS["slots"],  # type: ignore[arg-type]
            pools,
            random.Random(seed),
        )
        texts.add(text)
        for slot in slots:
            assert text[slot["start"] :].startswith(slot["value"])
    assert len(texts) > 5
    assert any("ultrasound" in text.lower() for text in texts)
    drawn = {pools.draw("playlist_owner", "x", random.Random(seed)) for seed in range(40)}
    assert drawn == {"my", "x"}  # a closed slot takes nothing that nobody said


def test_mixed_values_are_a_beginning_and_an_end() -> None:
    found = {mixed("Magic Sam", "Bill Szymczyk", random.Random(seed)) for seed in range(9)}
    assert found == {"Magic Szymczyk"}
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


def test_words_of_texts_are_those_said_three_times_and_make_invented_names() -> None:
    records = [{"text": "A corner, a well-known corner."}, {"text": "The corner isn't well-known."}]
    assert common_words(records) == ["corner"]
    assert common_words([*records, *records]) == ["corner", "well-known"]
    slots = [{"slot": "track", "value": "Old Song", "start": 0}]
    pools = ValuePools([{"slots": slots}], ["track"], words=["astronaut"])
    drawn = {pools.draw("track", "Old Song", random.Random(seed)) for seed in range(400)}
    assert any("astronaut" in name.lower() for name in drawn)


def test_invented_names_look_like_the_others_and_are_none_of_them() -> None:
    names = ["Andy Hunter", "Tierney Sutton", "Toyan", "Allen Toussaint", "Too Poetic!"]
    found = [invented(names, [], random.Random(seed)) for seed in range(300)]
    assert all(name and name == name.strip() and len(name.split()) <= 2 for name in found)
    assert not any(name[-1] in ".,:;!?" for name in found)
    first, last = {"andy", "tierney", "allen", "too"}, {"hunter", "sutton", "toussaint", "poetic"}
    two = [name.lower().split() for name in found if " " in name]
    assert not any(words[0] in last or words[1] in first for words in two)
    rare = ["Zugspitze", "quux"]
    found = [invented(names, rare, random.Random(seed)) for seed in range(300)]
    heard = {word for name in found for word in name.lower().split()}
    assert {"zugspitze", "quux", "hunter", "andy"} <= heard
    assert any(word.endswith("pitze") and not word.startswith("zug") for word in heard)
    assert len(heard) > 60


def test_every_snips_variant_answers_with_values_of_its_own_request() -> None:
    source = Source(file="s", options={"task": "snips"})
    for variants in read_snips([SNIPS, OTHER], source):
        for variant in variants:
            answer = answer_of(variant)
            assert answer["intent"] == "AddToPlaylist"
            for value in dict(answer["slots"]).values():  # type: ignore[call-overload]
                assert value in request_of(variant)
        assert variants[0][1].text == "<|system|>snips<|end|>"
        assert variants[7][1].text.startswith("<|user|>")  # some readings name no task


def test_repeated_slots_become_a_list_in_the_order_said() -> None:
    slots = [
        {"slot": "artist", "value": "B", "start": 9},
        {"slot": "artist", "value": "A", "start": 2},
    ]
    assert slots_object(slots) == {"artist": ["A", "B"]}


def test_answers_have_one_form_without_blanks() -> None:
    assert answer_json("a", {"b": "ü"}) == '{"intent":"a","slots":{"b":"ü"}}'


def test_disturbed_requests_keep_most_words() -> None:
    text = "how do i change the pin of my new card"
    for seed in range(50):
        words = set(disturb(text, random.Random(seed)).lower().rstrip("?").split())
        assert len(words & set(text.split())) >= 5


def test_intents_keep_their_label_through_every_variant() -> None:
    record = {"text": "What is my balance?", "intent": "balance"}
    (variants,) = read_intents([record], Source(file="c", options={"task": "clinc"}))
    assert {json.dumps(answer_of(variant)) for variant in variants} == {
        '{"intent": "balance", "slots": {}}'
    }
    assert request_of(variants[0]) == "What is my balance?"
    learned = ["".join(piece.text for piece in found if piece.learned) for found in variants]
    assert learned[0] == '{"intent":"balance","slots":{}}<|end|>'
    assert learned[1] == "balance"  # the rest is always the same


def test_dialogue_state_lists_slots_in_the_order_said() -> None:
    state = {
        "service": "Restaurants_1",
        "intent": "FindRestaurants",
        "slots": {"city": "Berkeley", "cuisine": "Thai", "has_live_music": "True"},
    }
    turn = {"speaker": "user", "text": "Thai food in Berkeley with music", "state": [state]}
    (variants,) = read_dialogue_state([{"turns": [turn]}], Source(file="d"))
    slots = dict(answer_of(variants[0])["slots"])  # type: ignore[call-overload]
    assert list(slots) == ["cuisine", "city", "has_live_music"]


def test_questions_and_foreign_services_are_out_of_scope() -> None:
    asked = Source(file="w", format="outside", options={"questions": ["who was {}"]})
    (variants,) = read_outside([{"id": 1, "title": "Ada Lovelace"}], asked)
    assert request_of(variants[0]) == "who was ada lovelace"
    assert answer_of(variants[0]) == {"intent": "oos", "slots": {}}
    homes = Source(file="d", format="outside", options={"services": ["Homes_1"]})
    turns = [{"text": "Find me a flat", "speaker": "user"}]
    records = [{"services": ["Homes_1"], "turns": turns}, {"services": ["Banks_1"], "turns": turns}]
    assert len(list(read_outside(records, homes))) == 1
