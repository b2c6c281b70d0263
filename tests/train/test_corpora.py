"""Recipes and data files: mistakes are named, held-out text is never trained on."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.train.config import Recipe, RecipeError, Source, load_recipe, parse_recipe
from shoal.train.corpora import read_corpus, read_records
from shoal.train.pieces import ReadContext, Record, Variant, plain
from tests.train.builders import write_jsonl


def text_of(variant: Variant) -> str:
    return "".join(segment.text for segment in variant)


def loss_text(variant: Variant) -> str:
    return "".join(segment.text for segment in variant if segment.in_loss)


def recipe_of(*sources: Source) -> Recipe:
    return Recipe(name="test", sources=sources)


def test_every_missing_or_altered_file_is_named_with_origin_and_licence(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("hello")
    recipe = recipe_of(
        Source(file="a.jsonl", title="Fine stories", origin="example.org", licence="CC0 1.0"),
        Source(file="b.txt", title="Other stories", sha256="0" * 64),
    )
    with pytest.raises(RecipeError) as raised:
        read_corpus(recipe, tmp_path)
    message = str(raised.value)
    assert "2 of the recipe's files" in message
    assert "missing  a.jsonl: Fine stories" in message
    assert "example.org, licence CC0 1.0" in message
    assert "altered  b.txt: Other stories" in message


def test_a_right_checksum_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    corpus = read_corpus(recipe_of(Source(file="b.txt", sha256=digest)), tmp_path)
    assert text_of(corpus.train[0].variants[0]) == "<|endoftext|>hello<|endoftext|>"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "a", "modle": {}}, "recipe.modle is not known"),
        ({"name": "a", "model": {"hidden": 3}}, "model.hidden is not known"),
        ({"name": "a", "model": {"num_heads": 3, "num_kv_heads": 2}}, "does not divide"),
        ({"name": "a", "tokenizer": {"style": "words"}}, "tokenizer.style = 'words'"),
        ({"name": "a", "schedule": {"decay_share": 2.0}}, "decay_share = 2.0"),
        ({}, "name"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_field(table: dict[str, object], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        parse_recipe(table)


def test_held_out_records_by_field_and_by_share_are_not_trained_on(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"text": f"Story number {n}.", "part": "test" if n % 10 == 0 else "train"}
        for n in range(400)
    ]
    write_jsonl(tmp_path / "s.jsonl", records)
    source = Source(file="s.jsonl", hold_out={"part": ["test"]}, hold_out_share=0.2)
    corpus = read_corpus(recipe_of(source), tmp_path)
    trained = {text_of(document.variants[0]) for document in corpus.train}
    held_out = {text_of(document.variants[0]) for document in corpus.held_out["s"]}
    assert not trained & held_out
    assert len(trained) + len(held_out) == 400
    assert 80 < len(held_out) < 150  # 40 by field, a fifth of the rest by hash
    assert "<|endoftext|>Story number 10.<|endoftext|>" in held_out


def test_own_records_may_be_texts_prompts_or_conversations(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "own.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write('{"text": "plain"}\n{"prompt": "1+1?", "completion": "2"}\n')
        file.write(
            '{"messages": [{"role": "user", "content": "Hi"}, '
            '{"role": "assistant", "content": "Hello"}]}\n'
        )
    corpus = read_corpus(recipe_of(Source(file="own.jsonl.xz")), tmp_path)
    variants = [document.variants[0] for document in corpus.train]
    assert [text_of(variant) for variant in variants] == [
        "<|endoftext|>plain<|endoftext|>",
        "<|endoftext|><|user|>1+1?<|end|><|assistant|>2<|end|>",
        "<|endoftext|><|user|>Hi<|end|><|assistant|>Hello<|end|>",
    ]
    assert [loss_text(variant) for variant in variants] == [
        "plain<|endoftext|>",
        "2<|end|>",
        "Hello<|end|>",
    ]


def test_a_recipe_may_have_every_request_read_twice(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "own.jsonl", [{"text": "plain"}, {"prompt": "1+1?", "completion": "<|user|>2"}]
    )
    recipe = Recipe(name="test", sources=(Source(file="own.jsonl"),), read_twice=True)
    variants = [document.variants[0] for document in read_corpus(recipe, tmp_path).train]
    assert [text_of(variant) for variant in variants] == [
        "<|endoftext|>plain<|endoftext|>",
        "<|endoftext|><|user|>1+1?<|end|><|user|>1+1?<|end|><|assistant|><|user|>2<|end|>",
    ]
    assert [loss_text(variant) for variant in variants] == [
        "plain<|endoftext|>",
        "<|user|>2<|end|>",
    ]


def test_an_unreadable_record_is_named_by_its_number(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "own.jsonl", [{"text": "fine"}, {"story": "no"}])
    with pytest.raises(RecipeError, match=r"own\.jsonl, record 2: expected a `text`.*story"):
        read_corpus(recipe_of(Source(file="own.jsonl")), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "one"}\n["two"]\n', r"own\.jsonl, line 2: not a JSON object but a list"),
        (b'{"text": "one"}\nnull\n', r"own\.jsonl, line 2: not a JSON object but null"),
        (b'{"text": "one"}\n{"text"\n', r"own\.jsonl, line 2: not JSON"),
        (b'{"messages": "hello"}\n', r"own\.jsonl, record 1: `messages` must be a list"),
        (b'{"prompt": "a", "completion": ""}\n', r"record 1: `completion` is empty"),
        ('{"text": "one"}\n'.encode("utf-16"), r"own\.jsonl, line 1: .* seems to be UTF-16"),
        ('{"text": "é"}\n'.encode("latin-1"), r"own\.jsonl, line 1: .* seems to be Latin-1"),
    ],
)
def test_an_own_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "own.jsonl").write_bytes(content)
    with pytest.raises(RecipeError, match=words):
        read_corpus(recipe_of(Source(file="own.jsonl")), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mark.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n'),
        ("a.ndjson", b'{"text": "one"}\n{"text": "two"}\n'),
        ("b.JSONL", b'{"text": "one"}\n{"text": "two"}\n'),
        ("c.json", b'[{"text": "one"}, {"text": "two"}]'),
        ("d.csv", b"text\none\ntwo\n"),
        ("own", b'{"text": "one"}\n{"text": "two"}\n'),
    ],
)
def test_records_are_never_one_plain_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_records(tmp_path / name)) == [{"text": "one"}, {"text": "two"}]


def test_a_plain_text_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo.")
    assert list(read_records(tmp_path / "book.txt")) == [{"text": "One.\n\nTwo."}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}}]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
         "tools": [{"name": "f"}]},
    ],
)  # fmt: skip
def test_what_a_model_from_a_recipe_does_not_know_is_refused(
    tmp_path: Path, record: dict[str, object]
) -> None:
    write_jsonl(tmp_path / "own.jsonl", [record])
    with pytest.raises(RecipeError, match=r"own\.jsonl, record 1: .*tools"):
        read_corpus(recipe_of(Source(file="own.jsonl")), tmp_path)


def test_a_recipe_may_extend_another_beside_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'name = "a"\nread_twice = true\n[schedule]\ntokens = 7\nseed = 3\n[[sources]]\nfile = "x"\n'
    )
    (tmp_path / "further.toml").write_text(
        'extends = "recipe.toml"\nsummary = "more"\n[schedule]\ntokens = 9\n'
    )
    first, further = (load_recipe(tmp_path / f"{name}.toml") for name in ("recipe", "further"))
    assert further.schedule == replace(first.schedule, tokens=9)
    assert further == replace(first, summary="more", schedule=further.schedule)
    (tmp_path / "third.toml").write_text('extends = "further.toml"\ngrow = true\n')
    assert load_recipe(tmp_path / "third.toml") == replace(further, grow=True)
    (tmp_path / "lost.toml").write_text('extends = "other.toml"\n')
    with pytest.raises(RecipeError, match=r"no recipe at .*other\.toml"):
        load_recipe(tmp_path / "lost.toml")


def test_background_text_is_never_trained_on(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("background")
    write_jsonl(tmp_path / "own.jsonl", [{"text": "plain"}])
    recipe = recipe_of(Source(file="b.txt", background=True), Source(file="own.jsonl"))
    corpus = read_corpus(recipe, tmp_path)
    assert [text_of(d.variants[0]) for d in corpus.train] == ["<|endoftext|>plain<|endoftext|>"]
    assert len(corpus.background) == 1


def test_held_out_documents_keep_one_variant_under_the_name_of_the_source(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", [{"text": f"{n}", "part": n % 2} for n in range(4)])
    contexts: list[ReadContext] = []

    def read(
        records: Iterable[Record], source: Source, context: ReadContext
    ) -> Iterator[list[Variant]]:
        contexts.append(context)
        return ([plain(record["text"])] * 3 for record in records)

    source = Source(file="s.jsonl", format="thrice", name="odd ones", hold_out={"part": [1]})  # type: ignore[list-item]
    corpus = read_corpus(recipe_of(source), tmp_path, {"thrice": read}, base=Path("b"))
    assert [len(document.variants) for document in corpus.train] == [3, 3]
    assert [len(document.variants) for document in corpus.held_out["odd ones"]] == [1, 1]
    assert [(c.held_out, c.base, c.data_dir) for c in contexts] == [
        (False, Path("b"), tmp_path),
        (True, Path("b"), tmp_path),
    ]
