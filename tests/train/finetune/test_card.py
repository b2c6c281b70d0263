"""The card says all facts, whatever text they hold; one written by hand is never lost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.checkpoint.open import open_model
from shoal.train.finetune.card import CardFacts, Sample, read_licence, write_card
from tests.fakes.gguf_files import GgufContent, write_gguf
from tests.fakes.tiny_models import write_tiny_model

FACTS = CardFacts(
    name="pirate",
    kind="adapter",
    base="models/smollm2.gguf",
    base_licence="apache-2.0",
    data="pairs.jsonl",
    num_rows=1200,
    data_sha256="ab" * 32,
    command="shoal train --data pairs.jsonl --from models/smollm2.gguf --out pirate",
    settings={"rank": "16 (default)", "rate": "0.0002 | by size"},
    held_out=(3.21, 1.5),
    num_held_out=60,
    learned_tokens=54_321,
    seconds=83.4,
    processor="AMD EPYC, 2 cores",
    versions={"shoal": "1.0", "torch": "2.9"},
    samples=(
        Sample("Who are you?", "I am a model.\n\n# Heading\n```", "Arr!\n| a | b |"),
        Sample("", "x" * 5000, ""),
    ),
)


def card(folder: Path) -> str:
    return (folder / "MODEL.md").read_text()


def test_every_fact_is_in_the_card(tmp_path: Path) -> None:
    assert write_card(tmp_path, FACTS)
    text = card(tmp_path)
    for part in ("# pirate\n", "A LoRA adapter of `models/smollm2.gguf`", "licence: apache-2.0",
                 "pairs.jsonl, 1,200 rows", "ab" * 32, "54,321 tokens", "83 s", "AMD EPYC, 2 cores",
                 "shoal 1.0, torch 2.9", "3.210 before, 1.500 after", "on 60 rows",
                 f"    {FACTS.command}\n", "| rate | 0.0002 \\| by size |",
                 "    shoal serve --model models/smollm2.gguf --adapter pirate",
                 "    I am a model.\n    \n    # Heading\n    ```\n", "    Arr!\n    | a | b |\n",
                 "x" * 1000):  # fmt: skip
        assert part in text
    assert "x" * 1001 not in text


def test_a_whole_model_without_held_out_rows_and_licence(tmp_path: Path) -> None:
    facts = replace(
        FACTS, kind="model", base_licence=None, held_out=None, samples=(), seconds=754.0
    )
    write_card(tmp_path, facts)
    text = card(tmp_path)
    for part in ("A model fine-tuned from `", "    shoal serve --model pirate\n", "12.6 minutes",
                 "No row was held out", "licence: not stated; see the base"):  # fmt: skip
        assert part in text
    assert "before and after" not in text


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        (lambda text: text, False),
        (lambda text: "# by hand\n", True),
        (lambda text: text.replace("# pirate", "# My pirate"), True),
        (lambda text: text + "My words.\n", True),
    ],
    ids=["ours", "by hand", "ours, changed", "ours, with more below"],
)
def test_a_card_that_a_person_wrote_or_changed_is_kept(
    tmp_path: Path, change: Callable[[str], str], is_kept: bool
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    assert write_card(new, FACTS, old)  # there is none yet
    write_card(old, FACTS)
    before = change(card(old))
    (old / "MODEL.md").write_text(before)
    assert write_card(new, replace(FACTS, num_rows=7), old) is not is_kept
    assert (card(new) == before) is is_kept
    assert ("7 rows" in card(new)) is not is_kept


def test_the_licence_is_the_one_that_the_base_names(tmp_path: Path) -> None:
    content = GgufContent("llama", {"general.license": "mit"}, {})
    assert read_licence(open_model(write_gguf(tmp_path / "a.gguf", content))) == "mit"
    assert read_licence(open_model(write_gguf(tmp_path / "b.gguf", GgufContent()))) is None
    folder = write_tiny_model(tmp_path / "tiny")
    assert read_licence(open_model(folder)) is None
    for text, licence in (
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# x\n", "apache-2.0"),
        ("---\nlicense: 'cc-by-4.0'  # or so\n---\n", "cc-by-4.0"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
    ):
        (folder / "README.md").write_text(text)
        assert read_licence(open_model(folder)) == licence
