"""Text through HTTP: hidden special tokens and stop strings, vocabularies of other kinds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.text_folder import VOCAB_SIZE
from tests.http.building import plain_texts, records, serve_script, streamed_texts
from tests.unit.text.building import wrap
from tests.unit.text.decoder_kinds import KINDS, vocabulary

USER = 257  # the special token <|user|>


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    ("stop", "shown", "hidden_shown"),
    [
        ("<|user|>", "ab", "ab"),
        ("b<|user|>c", "a", "a"),
        ("user|>cd", "ab", "ab<|"),
        ("cd", "ab", "ab<|user|>"),
        ("bc", "abcdef", "ab<|user|>cdef"),
    ],
)
async def test_stop_strings_see_special_tokens_that_the_caller_does_not(
    tmp_path: Path, stop: str, shown: str, hidden_shown: str, skip: bool
) -> None:
    """The answer ends at the same token whether special tokens are shown or not."""
    said = [*b"ab", USER, *b"cdef"]
    expected = shown if skip else hidden_shown
    async with serve_script(tmp_path, lambda prompt, sampling: said) as (served, _):
        fields: dict[str, Any] = {"stop": [stop], "skip_special_tokens": skip, "max_tokens": 20}
        plain = await served.complete("x", **fields)
        assert plain_texts(plain) == {0: expected}
        is_found = stop != "bc"
        assert plain.json()["choices"][0]["stop_reason"] == (stop if is_found else None)
        streamed = records(await served.complete("x", stream=True, **fields))
        assert streamed_texts(streamed) == {0: expected}
        kept = await served.complete("x", include_stop_str_in_output=True, **fields)
        if is_found:
            everything = "ab<|user|>cdef"
            whole = everything[: everything.index(stop) + len(stop)]
            assert plain_texts(kept) == {0: whole.replace("<|user|>", "") if skip else whole}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_decoder_answers_streamed_as_whole(tmp_path: Path, kind: str) -> None:
    library = vocabulary(kind)
    said = [(7 * i + i * i) % library.get_vocab_size() for i in range(40)]
    assert library.get_vocab_size() <= VOCAB_SIZE
    async with serve_script(tmp_path, lambda prompt, sampling: said) as (served, _):
        model = served.services.models["tiny"]
        served.services.models["tiny"] = replace(model, tokenizer=wrap(library))
        fields: dict[str, Any] = {"max_tokens": len(said), "logprobs": 1}
        plain = await served.complete([5, 6], **fields)
        events = records(await served.complete([5, 6], stream=True, **fields))
        assert streamed_texts(events) == plain_texts(plain)
        whole = library.decode([5, 6, *said])
        assert whole.endswith(plain_texts(plain)[0])
        logprobs = plain.json()["choices"][0]["logprobs"]
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
        echo = await served.complete([5, 6], echo=True, max_tokens=0)
        assert plain_texts(echo) == {0: library.decode([5, 6])}
        back = await served.client.post("/detokenize", json={"tokens": said})
        assert back.json() == {"prompt": library.decode(said, skip_special_tokens=False)}
