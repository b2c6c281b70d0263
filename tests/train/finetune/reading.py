"""Files of rows, read or refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.train.config import RecipeError
from shoal.train.finetune.read import RowFile, read_rows

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
PAIR = {"prompt": "Hi", "completion": "Ahoy"}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(folder: Path, *records: Any, name: str = "rows.jsonl") -> RowFile:
    return read_rows(write(folder, name, lines(*records)))


def refusal(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> str:
    with pytest.raises(RecipeError) as raised:
        read_rows(write(folder, name, content))
    return str(raised.value)


def as_table(records: list[dict[str, str]], delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()
