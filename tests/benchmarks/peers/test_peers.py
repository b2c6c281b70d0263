"""The comparison's own arithmetic and conversion, and that no server outlives its measurement."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.benchmarks.peers import gguf, llama_server, report, same_model
from tests.benchmarks.peers.measure import LevelResult
from tests.benchmarks.peers.process import Command, Unavailable, running
from tests.benchmarks.peers.shapes import to_bfloat16


def level(family: str, tokens_per_s: float, clients: int = 32, number: int = 0) -> LevelResult:
    return LevelResult(
        server=family,
        family=family,
        weights="bf16",
        shape="14m",
        round=number,
        clients=clients,
        streamed=True,
        tokens_per_s=tokens_per_s,
        ttft_p50_ms=1e4 / tokens_per_s,
    )


def marks(*levels: LevelResult) -> dict[str, report.Mark]:
    figures = report.Figures(list(levels), [], {}, [])
    return {mark.text: mark for mark in report.marks(figures)}


def test_the_better_peer_decides_throughput_and_first_token() -> None:
    found = marks(level("shoal", 3000), level("llama-server", 500), level("vllm", 1500))
    rate = found["14M bf16, 32 clients streamed: better peer of llama-server and vllm"]
    first = found["14M bf16, first token p50 at 32: better peer of llama-server and vllm"]
    assert rate.value == 2.0
    assert first.value == pytest.approx(0.5)
    assert not rate.passed
    assert not first.passed


def test_a_mark_without_its_peer_is_neither_passed_nor_missed() -> None:
    mark = marks(level("shoal", 3000, clients=1))["14M bf16, 1 client: llama-server"]
    assert (mark.value, mark.passed) == (None, None)


def test_ratios_are_made_within_rounds() -> None:
    # The second round met a machine half as fast: its ratio is the same all the same.
    rounds = [
        level(family, rate / (1 + number), clients=1, number=number)
        for number in range(2)
        for family, rate in (("shoal", 2500.0), ("llama-server", 1000.0))
    ]
    assert marks(*rounds)["14M bf16, 1 client: llama-server"].value == 2.5
    assert report.ratio({0: 1.0}, {1: 1.0}) is None
    assert report.ratio({0: 1.0}, {0: 0.0}) == math.inf


def test_eight_bit_blocks_are_within_half_a_step() -> None:
    values = np.random.default_rng(1).standard_normal((8, 64), np.float32)
    values[0] = 0
    kind = np.dtype([("scale", "<f2"), ("values", "i1", (gguf.Q8_BLOCK,))])
    blocks = np.frombuffer(gguf.quantize_q8_0(values), kind)
    back = blocks["scale"].astype(np.float32)[:, None] * blocks["values"]
    error = np.abs(back - values.reshape(-1, gguf.Q8_BLOCK))
    # Half a step, and what float16 rounds off the scale (at most 127 steps of 2 ** -11).
    assert (error <= blocks["scale"][:, None] * (0.5 + 127 / 2**11)).all()
    assert not back[0].any()


def test_bfloat16_rounds_to_nearest_even() -> None:
    exact = np.array([1.0, -2.5, 0.0], np.float32)
    assert ((to_bfloat16(exact).astype(np.uint32) << 16).view(np.float32) == exact).all()
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert to_bfloat16(ties).tolist() == [0x3F80, 0x3F82]


def test_converted_file_holds_every_tensor_and_the_rows_of_heads_in_pairs(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf.convert(same_model.MODEL, file, "bf16")
    config = json.loads((same_model.MODEL / "config.json").read_text())
    data = file.read_bytes()
    assert data[:4] == b"GGUF"
    version, num_tensors, _ = struct.unpack_from("<IQQ", data, 4)
    assert (version, num_tensors) == (3, 2 + 9 * config["num_hidden_layers"])
    size = (same_model.MODEL / "model.safetensors").stat().st_size
    assert len(data) > size  # bf16 stays bf16, norms grow to float32
    rows = np.arange(8, dtype=np.uint16)[:, None]  # two heads of four dimensions
    assert gguf._neighbours(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_no_process_of_a_server_is_left() -> None:
    with running(Command(["sh", "-c", "sleep 300 & exec sleep 300"])) as server:
        family = [server.process.pid]
        while len(family) < 2:
            family += [child.pid for child in psutil.Process(family[0]).children()]
        assert server.memory_mib() > 0
    assert not any(psutil.pid_exists(pid) for pid in family)


@pytest.mark.peers
def test_llama_server_continues_prompts_as_shoal_does() -> None:
    try:
        server = llama_server.find_server(None)
    except Unavailable as error:
        pytest.skip(str(error))
    agreement = same_model.compare(server, "bf16")
    assert agreement.shared > 0.6
    assert agreement.equal >= agreement.total // 2
