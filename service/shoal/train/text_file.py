"""Text out of files: compressed ones opened, UTF-8 checked, other encodings refused by name."""

from __future__ import annotations

import gzip
import lzma
import re
import shlex
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from shoal.train.config import RecipeError

_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive, as .xlsx and .docx are",
    b"%PDF": "a PDF",
    b"GGUF": "a model",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_HEAD_BYTES = 4096


def open_plain(path: Path) -> BufferedIOBase:
    """The file's bytes, decompressed where it is xz or gzip. Raises RecipeError."""
    try:
        file = path.open("rb")
        head = file.peek(6)
    except FileNotFoundError as error:
        raise RecipeError(f"there is no file {path}") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(b"\xfd7zXZ\x00"):
        file.close()
        return lzma.open(path)
    if head.startswith(b"\x1f\x8b"):
        file.close()
        return gzip.open(path)
    return file


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file with their ends, which are "\\n" alone or behind "\\r"; a byte-order
    mark is dropped. Raises RecipeError for another encoding, for what is no text, and for damaged
    compression."""
    with open_plain(path) as file:
        number = 0
        lines = iter(file)
        while True:
            try:
                raw = next(lines, b"")
            except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
                raise RecipeError(f"{path} is damaged: {error}") from error
            if not raw:
                return
            number += 1
            if number == 1:
                _check_head(path, raw[:_HEAD_BYTES])
                raw = raw.removeprefix(_MARK)
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, raw) from error


def _check_head(path: Path, head: bytes) -> None:
    for mark, encoding in _WIDE_MARKS.items():
        if head.startswith(mark):
            raise RecipeError(f"{path}, line 1: {_to_convert(path, encoding)}")
    for mark, kind in _NOT_TEXT.items():
        if head.startswith(mark):
            raise RecipeError(f"{path} is not text: it seems to be {kind}")
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) * 3 > len(head) and min(even, odd) * 10 < len(head):
            encoding = "UTF-16BE" if even > odd else "UTF-16LE"
            raise RecipeError(f"{path}, line 1: {_to_convert(path, encoding)}")
        raise RecipeError(f"{path} is not text: it holds zero bytes")


def _not_utf8(path: Path, number: int, raw: bytes) -> RecipeError:
    """One-byte encodings of Western Europe have one or two high bytes between letters; others have
    longer runs of them."""
    runs = re.findall(rb"[\x80-\xff]+", raw)
    if sum(map(len, runs)) <= 2 * len(runs):
        has_controls = re.search(rb"[\x80-\x9f]", raw) is not None
        encoding = "WINDOWS-1252" if has_controls else "LATIN1"
    else:
        encoding = ""
    return RecipeError(f"{path}, line {number}: {_to_convert(path, encoding)}")


def _to_convert(path: Path, encoding: str) -> str:
    names = {"LATIN1": "Latin-1", "WINDOWS-1252": "Windows-1252"}
    seems = names.get(encoding, encoding) or (
        "an older encoding of its language, such as Shift_JIS, GB18030, EUC-KR or Windows-1251"
    )
    source, target = (shlex.quote(name) for name in (path.name, f"{path.stem}.utf8{path.suffix}"))
    return (
        f"the text is not UTF-8; it seems to be {seems}. Convert it: "
        f"iconv -f {encoding or 'ENCODING'} -t UTF-8 {source} > {target}"
    )
