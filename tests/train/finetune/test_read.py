"""Rows as people have them: every format, and a clear refusal of everything else."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.train.config import RecipeError
from shoal.train.finetune.read import PIECE_CHARS, read_rows
from shoal.train.finetune.rows import Row
from tests.train.finetune.reading import HELLO, PAIR, as_table, lines, read, refusal, write

# --- formats --------------------------------------------------------------------------------------


FORMATS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "a.jsonl": lambda records: lines(*records).encode(),
    "a.ndjson": lambda records: lines(*records).encode(),
    "a.JSONL": lambda records: lines(*records).encode(),
    "a.json": lambda records: json.dumps(records, indent=1).encode(),
    "lines.json": lambda records: lines(*records).encode(),
    "a.csv": lambda records: as_table(records, ","),
    "semicolons.csv": lambda records: as_table(records, ";"),
    "a.tsv": lambda records: as_table(records, "\t"),
    "a.jsonl.xz": lambda records: lzma.compress(lines(*records).encode()),
    "a.csv.gz": lambda records: gzip.compress(as_table(records, ",")),
    "mark.jsonl": lambda records: b"\xef\xbb\xbf" + lines(*records).encode(),
    "mark.csv": lambda records: b"\xef\xbb\xbf" + as_table(records, ","),
    "windows.jsonl": lambda records: lines(*records).replace("\n", "\r\n\r\n").encode(),
    "unknown": lambda records: lines(*records).encode(),
    "rows.txt": lambda records: lines(*records).encode(),
    "list.data": lambda records: json.dumps(records).encode(),
    "indented.txt": lambda records: json.dumps(records, indent=2).encode(),
    "array.jsonl": lambda records: json.dumps(records, indent=2).encode(),
}
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "\0" not in text
)
PAIRS = st.lists(st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}), min_size=1)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(records=PAIRS)
def test_rows_come_back_from_every_format(name: str, records: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_rows(write(Path(folder), name, FORMATS[name](records)))
    assert found.kind == "pairs"
    assert [(row.prompt, row.completion) for row in found.rows] == [
        (record["prompt"], record["completion"]) for record in records
    ]


def test_rows_come_back_from_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    call = {"function": {"name": "f", "arguments": '{"a": 1}'}, "id": "1", "type": "function"}
    chats = [
        {"messages": [{**message, "tool_calls": None} for message in HELLO], "id": 1},
        {"messages": [HELLO[0], {"role": "assistant", "content": None, "tool_calls": [call]}]},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(chats), tmp_path / "a.parquet")
    found = read_rows(tmp_path / "a.parquet")
    assert found.rows[0].messages == tuple(HELLO)
    assert found.rows[1].messages[1]["tool_calls"] == [call]
    assert found.rows[1].where == "a.parquet, row 2"


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in refusal(tmp_path, b"PAR1....", "a.parquet")
    assert "not a Parquet file" in refusal(tmp_path, "{}", "b.parquet")


def test_rows_have_the_line_they_begin_in(tmp_path: Path) -> None:
    table = 'prompt,completion\r\n"two\nlines",a\r\nb,c\r\n'
    assert [row.where for row in read_rows(write(tmp_path, "a.csv", table)).rows] == [
        "a.csv, line 2",
        "a.csv, line 4",
    ]
    array = json.dumps([PAIR, PAIR], indent=1)
    assert [row.where for row in read_rows(write(tmp_path, "a.json", array)).rows] == [
        "a.json, line 2",
        "a.json, line 6",
    ]


def test_a_plain_text_is_cut_into_pieces_that_go_on(tmp_path: Path) -> None:
    text = "".join(
        f"Sentence {n} of a long text.{' ' if n % 9 else chr(10) * 2}" for n in range(999)
    )
    found = read_rows(write(tmp_path, "book.txt", text))
    assert found.kind == "text"
    assert "".join(row.text or "" for row in found.rows) == text
    assert len(found.rows) > 2
    assert all(len(row.text or "") <= PIECE_CHARS for row in found.rows)
    assert all((row.text or "").endswith("\n\n") for row in found.rows[:-1])
    assert [row.is_end for row in found.rows] == [False] * (len(found.rows) - 1) + [True]
    assert found.rows[1].where == f"book.txt, line {(found.rows[0].text or '').count(chr(10)) + 1}"
    assert "book.txt is read as one plain text" in found.notes[0]
    long = read_rows(write(tmp_path, "word.txt", "a" * 20_000)).rows
    assert [len(row.text or "") for row in long] == [8000, 8000, 4000]


@pytest.mark.parametrize(
    "text", ["[1] See below.\n", "{a, b} is a set.\n", "[Intro]\nLa la.\n", "#"]
)
def test_a_text_that_begins_like_json_is_a_text(tmp_path: Path, text: str) -> None:
    assert read_rows(write(tmp_path, "a.txt", text)).rows == [Row("a.txt, line 1", text=text)]


def test_rows_under_an_unknown_name_are_told(tmp_path: Path) -> None:
    assert read(tmp_path, PAIR, PAIR, name="data").notes[0] == (
        "data is read as JSON lines, by what it holds"
    )


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "prompt,completion\n3,4\n")
    write(tmp_path, "a.jsonl", lines({"prompt": "1", "completion": "2"}))
    write(tmp_path, "README.md", "About the data.")
    write(tmp_path, "picture.png", b"\x89PNG")
    write(tmp_path, ".gitattributes", "")
    write(tmp_path, "test_1.jsonl", lines(PAIR))
    write(tmp_path, "validation.csv", "prompt,completion\n5,6\n")
    found = read_rows(tmp_path)
    assert [row.prompt for row in found.rows] == ["1", "3"]
    assert found.notes == (
        "not read: README.md, picture.png, test_1.jsonl, validation.csv",
        "a.jsonl: 1 row",
        "b.csv: 1 row",
    )
    before = found.fingerprint
    write(tmp_path, "a.jsonl", lines({"prompt": "1", "completion": "3"}))
    assert read_rows(tmp_path).fingerprint != before


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds no data files: their names end in \.csv"):
        read_rows(tmp_path)


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", lines(PAIR))
    assert read_rows(path).fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_that_repeat_are_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path, *({"prompt": f"question {n % 2000}", "completion": "x"} for n in range(5000))
    )
    assert len(found.rows) == 5000
    assert "3,000 rows of 5,000 repeat an earlier one" in found.notes


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows: it is empty"),
        ("\n  \n\n", "holds no rows: expected"),
        (lines(PAIR) + '["two"]\n', "rows.jsonl, line 2: not a JSON object but a list"),
        (lines(PAIR) + "null\n", "rows.jsonl, line 2: not a JSON object but null"),
        (lines(PAIR) + "\n3\n", "rows.jsonl, line 3: not a JSON object but a number"),
        (lines(PAIR) + '{"prompt": "a",\n', "rows.jsonl, line 2: not JSON: "),
        ('{"prompt": "a" "completion"}\n' + lines(PAIR), "rows.jsonl, line 1: not JSON: "),
        ("[" * 100_000, "line 1"),
        ("{}\n", "expected a `text`, a `prompt` and `completion`"),
        (lines({"story": "a", "id": 1}), "it has id, story"),
        (lines({"prompt": "a", "chosen": "b"}), "chosen answer as the `completion`"),
        (lines({"prompt": "a", "completion": " \n"}), "`completion` is empty"),
        (lines({"prompt": "a", "completion": 42}), "`completion` must be a text"),
        (lines({"prompt": None, "completion": "a"}), "it has completion"),
        (lines({"text": "  "}), "`text` is empty"),
        (lines({"text": ["a"]}), "`text` must be a text"),
        ('{"text": "\\ud800"}\n', "half a surrogate pair"),
        (lines({"messages": "hello"}), "`messages` must be a list"),
        (lines({"messages": []}), "`messages` must be a list of messages"),
        (lines({"messages": ["hello"]}), "messages[0] must be an object"),
        (lines({"messages": [{"role": "user"}, HELLO[1]]}), "messages[0] of role user has no"),
        (lines({"messages": [{"content": "a"}]}), "messages[0] has the role None; known are"),
        (lines({"messages": [{"role": "pirate", "content": "a"}]}), "has the role 'pirate'"),
        (lines({"messages": HELLO[:1]}), "ends with a message of role"),
        (lines({"messages": HELLO[1:]}), "nothing that it answers"),
        (lines({"messages": [HELLO[0], {"role": "assistant", "content": ""}]}), "an empty answer"),
        (lines({"messages": [HELLO[0], {"role": "assistant", "content": [{"type": "image_url"}]}]}),
         "part that is no text"),
        (lines({"messages": [HELLO[0], {**HELLO[1], "weight": 0}]}), "weight 0"),
        (lines({"messages": [HELLO[0], {**HELLO[1], "weight": 2}]}), "messages[1].weight is 2"),
        (lines({"messages": [HELLO[0], {**HELLO[1], "function_call": {}}]}), "write tool_calls"),
        (lines({"messages": [{"role": "tool", "content": "a"}, HELLO[1]]}), "result of no call"),
        (lines({"messages": HELLO, "functions": [{"name": "f"}]}), "write tools"),
        (lines({"messages": HELLO, "tools": [{"name": "a b"}]}), "tools[0]: a function's name"),
        (lines({"messages": HELLO, "chat_template_kwargs": {"a": []}}), "chat_template_kwargs"),
        (lines({"prompt": HELLO, "completion": []}), "`completion` is empty"),
        (lines({"prompt": HELLO[:1], "completion": HELLO[:1]}), "ends with a message of role"),
        (lines({"question": "a", "query": "b", "answer": "c"}), "which is the prompt: question or"),
        (lines({"question": "a", "answer": "b", "response": "c"}), "which is the answer: response"),
        (lines({"instruction": "a", "input": "b", "context": "c", "output": "d"}),
         "input or context"),
        (lines({"instruction": "a", "output": "b", "history": [["c", "d"]]}), "`history` is not"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    assert words in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "prompt,completion\na,b,c\n",
            "line 2: 3 cells, but the first line names 2 columns",
        ),
        ("a.csv", "prompt,prompt\na,b\n", "two columns are named prompt"),
        ("a.csv", 'prompt,completion\n"a,b\n', "not CSV"),
        ("a.csv", "prompt,completion\n", "holds no rows"),
        ("a.csv", "What is it?,A boat\n", "holds no rows"),
        ("a.tsv", "prompt\tcompletion\na\t\n", "line 2: `completion` is empty"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", "[1, 2]", "line 1: not a JSON object but a number"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', "line 1: the list does not go on"),
        ("a.json", '[{"text": "a"},\n{"text"}]', "line 2: not JSON"),
        ("a.json", '[{"text": "a"}]\n[]', "goes on behind the end of its list"),
        ("a.json", '{\n "data": []\n}', "it has data"),
        ("a.txt", " \n", "holds no text"),
        ("a.xlsx", b"PK\x03\x04 \n", "seems to be a zip archive"),
        ("a.pdf", b"%PDF-1.5\n", "seems to be a PDF"),
        ("a.bin", b"\x00\x01\x02\x00", "holds zero bytes"),
        ("a.jsonl.xz", lzma.compress(b'{"text": "a"}\n' * 999)[:-20], "is damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-20], "is damaged"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    message = refusal(tmp_path, content, name)
    assert words in message
    assert name in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
@pytest.mark.parametrize(
    ("encoding", "text", "words"),
    [
        ("utf-16", "Grüße", "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 "),
        ("utf-16-le", "A plain text.", "UTF-16LE"),
        ("utf-16-be", "A plain text.", "UTF-16BE"),
        ("utf-32", "Grüße", "UTF-32"),
        ("latin-1", "Grüße", "Latin-1. Convert it: iconv -f LATIN1"),
        ("cp1252", "“Grüße”", "Windows-1252"),
        ("shift_jis", "こんにちは世界", "an older encoding"),
        ("cp1251", "Привет, мир", "an older encoding"),
    ],
)
def test_other_encodings_are_refused_by_name(
    tmp_path: Path, name: str, encoding: str, text: str, words: str
) -> None:
    content = {"a.jsonl": f'{{"text": "{text}"}}\n', "a.csv": f"text\n{text}\n"}.get(name, text)
    message = refusal(tmp_path, content.encode(encoding), name)
    assert words in message
    assert "line " in message


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no file"):
        read_rows(tmp_path / "none.jsonl")


def test_up_to_five_bad_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(PAIR, *[{"prompt": "a", "completion": ""}] * 1234))
    assert "1,234 rows of" in message
    assert "line 2: `completion` is empty" in message
    assert message.count("the same") == 4
    assert "line 6" in message
    assert "line 7" not in message
    assert message.endswith("and 1,229 more")


def test_mixed_kinds_are_refused_with_both_lines(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(PAIR, PAIR, {"text": "a"}))
    assert "pairs (rows.jsonl, line 1), text (rows.jsonl, line 3)" in message
