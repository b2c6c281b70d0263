"""Files of a model that somebody made or damaged: an exact load, or an error with their name."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.catalogue import read_catalogue
from shoal.checkpoint.gguf_header import read_header
from shoal.checkpoint.safetensors import read_safetensors
from shoal.cli import build_app
from shoal.commands.model_folders import read_folder
from shoal.errors import ConfigError, ModelFolderError
from shoal.protocol.messages import ModelSource
from tests.checkpoint import test_gguf, test_safetensors
from tests.fakes.tiny_models import framed, write_tiny_llama
from tests.faults.measured import Measured

Found = TypeVar("Found")
JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "lock.json", "model.safetensors.index.json")  # fmt: skip
DEEP = {
    "open": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "balanced": '{"eos_token": ' + "[" * 900 + "]" * 900 + "}",
}


def problems_of(folder: Path) -> tuple[str, ...]:
    """Why it cannot be served; an error that is none of ours fails."""
    return read_folder(ModelSource("tiny", str(folder))).problems


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("name", JSON_FILES)
def test_brackets_in_any_file_are_a_clean_error(tmp_path: Path, name: str, kind: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(DEEP[kind])
    assert any(f"tiny/{name}" in problem for problem in problems_of(folder))


@pytest.mark.parametrize("kind", DEEP)
def test_brackets_in_the_config_of_an_adapter_too(tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(DEEP[kind])
    with pytest.raises(ModelFolderError, match=r"adapter_config\.json"):
        AdapterFolder(tmp_path).config()


def test_brackets_in_a_catalogue_too(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"catalogue\.toml"):
        read_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"temperature": NaN}', "temperature must be a finite number"),
        ('{"temperature": -Infinity}', "temperature must be a finite number"),
        ('{"x": [1, [1e999]]}', "x must be a finite number"),
        ('{"top_k": 1, "top_k": 2}', "top_k must stand once"),
        ('{"x": {"y": 1, "y": 1}}', "y must stand once"),
        ('{"repetition_penalty": 0}', "repetition_penalty must be a number above 0"),
        ('{"temperature": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('{"temperature": "1"}', "temperature must be a number from 0 to 2"),
        ('{"top_k": 1.5}', "top_k must be a whole number"),
        ('{"eos_token_id": 5000}', "eos_token_id must be of the tokenizer's 261 ids"),
        ('{"eos_token_id": -7}', "eos_token_id must be of the tokenizer's 261 ids"),
        ("[]", "is not a JSON object"),
        ("\ufeff{}", "is not valid JSON"),
        ("{} {}", "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
)
def test_a_value_that_is_none_is_refused_by_file_and_field(
    tmp_path: Path, text: str, sentence: str
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "generation_config.json").write_text(text)
    (problem,) = problems_of(folder)
    assert problem.startswith("tiny/generation_config.json")
    assert sentence in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1 << 20), ("num_hidden_layers", -1), ("hidden_size", 0),
        ("vocab_size", 1 << 40), ("num_attention_heads", 1 << 20), ("rope_theta", 0),
        ("rms_norm_eps", -1e-5), ("max_position_embeddings", 2.5), ("hidden_act", ["silu"]),
        ("architectures", "x" * (1 << 20)), ("intermediate_size", True),
    ],
)  # fmt: skip
def test_a_size_that_is_none_is_refused_at_once(tmp_path: Path, key: str, value: Any) -> None:
    """Before anything is made in that number."""
    folder = write_tiny_llama(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    began = time.process_time()
    assert any(f"tiny/config.json: {key} must" in problem for problem in problems_of(folder))
    assert time.process_time() - began < 6


# --- exit code -----------------------------------------------------------------------------------


def test_a_damaged_model_ends_the_server_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is found: the HTTP side reads tokenizers, the engine compares the lock."""
    import shoal.server.serve as server

    def run(settings: object, listener: object) -> int:
        raise ModelFolderError("tiny/tokenizer.json is damaged")

    monkeypatch.setattr(server, "run", run)
    done = CliRunner().invoke(build_app(), ["serve", "--port", "0", "--model", "tiny"])
    assert (done.exit_code, done.stderr) == (3, "shoal: tiny/tokenizer.json is damaged\n")


@pytest.mark.faults
@pytest.mark.parametrize("name", [*JSON_FILES[:4], "model.safetensors"])
def test_one_flipped_bit_of_a_locked_file_ends_a_server_with_3(
    tmp_path: Path, name: str, measured: Measured
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    command = [sys.executable, "-m", "shoal", "serve", "--model", str(folder), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    last = done.stderr.strip().splitlines()[-1]
    measured(
        f"one flipped bit in a locked {name}",
        promised="exit code 3, the file named",
        measured=f"exit code {done.returncode}: {last[:60]}",
    )
    assert done.returncode == 3
    assert f"tiny/{name}" in last
    assert "Traceback" not in done.stderr


# --- weights -------------------------------------------------------------------------------------


def within_limits(read: Callable[[], object], measured: Measured, situation: str) -> None:
    """Many files, one after the other: the slowest and what stays of memory."""
    memory = psutil.Process()
    read()
    before, began = memory.memory_info().rss, time.process_time()
    read()
    took, grown = time.process_time() - began, memory.memory_info().rss - before
    measured(
        situation,
        promised="exact load or a clean error, ≤ 64 MiB",
        measured=f"{took:.1f} s in all, {grown / 2**20:.0f} MiB",
    )
    assert grown < 64 << 20


def read_damaged(path: Path, data: bytes, reader: Callable[[Path], Found]) -> Found | None:
    """None for a clean error."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    began, message = time.process_time(), None
    try:
        found = reader(path)
    except ModelFolderError as error:
        message, found = error.message, None
    assert time.process_time() - began < 2
    assert message is None or path.name in message
    return found


@pytest.mark.faults
def test_500_flipped_bits_and_every_cut_of_a_safetensors_file(
    tmp_path: Path, measured: Measured
) -> None:
    raw, path = test_safetensors.small_file(tmp_path / "s.safetensors"), tmp_path / "x.safetensors"
    header_end = 8 + int.from_bytes(raw[:8], "little")
    wanted = [t.array.tobytes() for t in read_safetensors(tmp_path / "s.safetensors").values()]

    def outcome(data: bytes) -> None:
        if found := read_damaged(path, data, read_safetensors):
            # A name, or a format of the same width, may be another: the bytes are the same.
            assert b"".join(t.array.tobytes() for t in found.values()) == b"".join(wanted)

    def read() -> None:
        rng = np.random.default_rng(1)
        for bit in rng.integers(0, header_end * 8, 500):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            outcome(bytes(flipped))
        for length in (*range(header_end), *rng.integers(header_end, len(raw), 64)):
            outcome(raw[:length])

    within_limits(read, measured, "safetensors: 500 flipped bits, every cut of the header")


@pytest.mark.faults
def test_500_flipped_bits_and_every_cut_of_a_gguf_file(tmp_path: Path, measured: Measured) -> None:
    raw, path = test_gguf.small_file(), tmp_path / "x.gguf"
    size = test_gguf.header_size(raw)

    def read() -> None:
        rng = np.random.default_rng(1)
        for bit in rng.integers(0, size * 8, 500):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            read_damaged(path, bytes(flipped), read_header)
        for length in (*range(size), *rng.integers(size, len(raw) - 32, 64)):
            read_damaged(path, raw[:length], read_header)

    within_limits(read, measured, "GGUF: 500 flipped bits, every cut of the header")


@pytest.mark.faults
def test_bombs_in_a_header_take_neither_time_nor_memory(tmp_path: Path, measured: Measured) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = json.dumps({str(index): entry for index in range(200_000)}).encode()
    headers = [framed(bomb, bytes(8)) for bomb in test_safetensors.BOMBS.values()]
    headers += [(1 << 63).to_bytes(8, "little") + b"{}", framed(many, b"")]
    headers += [framed(b"{" + b",".join(b'"%d":{}' % i for i in range(1_000_000)) + b"}", b"")]
    ggufs = [raw for raw, _ in test_gguf.BOMBS.values()]

    def read() -> None:
        for name, reader, files in (
            ("x.safetensors", read_safetensors, headers),
            ("x.gguf", read_header, ggufs),
        ):
            path = tmp_path / name
            for raw in files:
                path.unlink(missing_ok=True)
                path.write_bytes(raw)
                began = time.process_time()
                with pytest.raises(ModelFolderError, match=name):
                    reader(path)
                assert time.process_time() - began < 2

    within_limits(read, measured, "headers: length 2^63, shape 2^40 x 2^40, 1,000,000 tensors, ...")


def test_a_header_that_is_one_text_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """A file may be long without having so many bytes on the disk."""
    path, number = tmp_path / "x.gguf", lambda value, size: value.to_bytes(size, "little")
    head = b"GGUF" + number(3, 4) + number(0, 8) + number(1, 8)
    path.write_bytes(head + number(1, 8) + b"k" + number(8, 4) + number(4 << 30, 8))
    os.truncate(path, 5 << 30)
    with pytest.raises(ModelFolderError, match="the header is larger than 256 MiB"):
        read_header(path)


# --- while it is served --------------------------------------------------------------------------


def test_a_gguf_file_cut_short_cannot_end_the_process_that_reads_its_texts(tmp_path: Path) -> None:
    """The HTTP side reads a header and maps nothing it looks at: touching a mapping behind the end
    of its file would end the process (SIGBUS)."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(test_gguf.small_file())
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from shoal.checkpoint.gguf import GgufFile\n"
        "from shoal.text.text_model import read_text_model\n"
        "files = GgufFile(Path(sys.argv[1]))\n"
        "files._header\n"
        "os.truncate(sys.argv[1], 100)\n"
        "print(read_text_model(files, 'tiny').tokenizer.encode('ab'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[")


def test_nothing_that_can_run_code_is_used_to_load_a_model_and_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From reading the folder to tokens, with those functions broken."""
    import pickle

    import torch
    import yaml

    from shoal.commands.check import examine
    from shoal.protocol.messages import EngineConfig

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("this can run code")

    for module, name in (
        (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"),
        (yaml, "load"), (yaml, "unsafe_load"), (np, "load"), (os, "system"), (os, "popen"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("shoal.runner.compare.can_compare", lambda path: False)
    monkeypatch.setattr("shoal.commands.measure.measure_speed", lambda core, config: None)
    for path in (write_tiny_llama(tmp_path / "tiny"), tmp_path / "tiny.gguf"):
        if path.suffix == ".gguf":
            path.write_bytes(test_gguf.small_file())
        source = ModelSource("tiny", str(path))
        report = examine(source, EngineConfig(models=(source,), max_batch_size=4))
        assert report.problem is None
        assert report.text["vocab_size"] > 0


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_weights_cut_short_while_they_are_served_do_not_end_the_http_side(
    tmp_path: Path, kind: str, measured: Measured
) -> None:
    import httpx

    if kind == "folder":
        path = write_tiny_llama(tmp_path / "tiny")
        weights = path / "model.safetensors"
    else:
        path = weights = tmp_path / "tiny.gguf"
        path.write_bytes(test_gguf.small_file())
    command = [sys.executable, "-m", "shoal", "serve", "--model", str(path), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = _port_of(server.pid)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        _wait(lambda: client.get("/readyz").status_code == 200)
        os.truncate(weights, 64)
        for _ in range(5):
            client.post("/v1/completions", json={"prompt": "a", "max_tokens": 4})
            assert client.get("/livez").status_code == 200
        measured(
            f"weights cut short while they are served ({kind})",
            promised="the HTTP side lives",
            measured=f"{client.get('/livez').status_code} from /livez",
        )
    finally:
        server.terminate()
        server.communicate(timeout=60)


def _port_of(pid: int) -> int:
    for _ in range(600):
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
        time.sleep(0.1)
    raise AssertionError("it does not listen")


def _wait(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("not in a minute")
