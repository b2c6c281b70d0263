"""--quantize int8 and int4: what is computed, what is said about it, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.config import Settings, engine_config
from shoal.errors import ConfigError, ModelFolderError
from shoal.kernels import native
from shoal.model.spec import Role
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.protocol.params import OutputParams
from shoal.protocol.step import LoadedRunner
from shoal.runner import load as load_module
from shoal.runner.backends.native import main_block_type, native_dtype, packed_bytes
from shoal.runner.load import load_runner
from tests.checkpoint.test_gguf import content
from tests.fakes.gguf_files import write_gguf
from tests.fakes.tiny_models import write_tiny_llama
from tests.unit.runner.building import new_row, plan

needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")
METRICS = {"perplexity": {"full": 7.25, "int8": 7.3}}


def load(folder: Path, **config: Any) -> LoadedRunner:
    settings = EngineConfig(
        models=(),
        kv_cache_bytes=4 << 20,
        **{"kernels": "native", "quantize": "int8", "num_threads": 1, **config},
    )
    return load_runner(ModelSource("tiny", str(folder)), settings, 4 << 20, lambda _: None)


@needs_native
def test_an_int8_model_says_so_and_takes_a_quarter_of_the_weight_memory(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", hidden_size=192, intermediate_size=384)
    _, whole, whole_blocks, *_ = load(folder, quantize="none")
    _, small, small_blocks, *_ = load(folder)
    assert (whole.dtype, whole.quantization) == ("float32", "none")
    assert (small.dtype, small.quantization) == ("int8", "int8")
    assert whole.weight_bytes > 4 * whole.num_parameters * 0.95
    assert small.weight_bytes < 0.3 * whole.weight_bytes
    _, smallest, *_ = load(folder, quantize="int4")
    assert (smallest.dtype, smallest.quantization) == ("int4", "int4")
    assert smallest.weight_bytes < 0.8 * small.weight_bytes
    assert small_blocks == 2 * whole_blocks  # keys and values are bfloat16: twice as many fit


@needs_native
def test_quantized_logprobs_are_close_to_those_of_the_whole_weights(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", hidden_size=192)
    values = {}
    for quantize in ("none", "int8", "int4"):
        runner, *_ = load(folder, quantize=quantize)
        row = new_row(1, list(range(30)), [5, 2], output=OutputParams(prompt_logprobs=0))
        result = runner.run(plan((1, 0, 30), new=[row]))
        values[quantize] = [one.logprob for one in result.prompt_logprobs[1]]
    eight, four = (
        np.abs(np.subtract(values["none"], values[quantize])) for quantize in ("int8", "int4")
    )
    assert 0 < eight.max() < 0.2
    assert eight.mean() < 0.05
    assert eight.mean() < four.mean() < 0.5


@pytest.mark.parametrize(
    "config", [{"kernels": "torch"}, {"kernels": "auto", "device": "cuda"}], ids=str
)
def test_int8_on_pytorch_is_refused_with_what_to_do(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ConfigError, match=r"quantize=int8 needs the native CPU kernels.*set"):
        load(write_tiny_llama(tmp_path / "tiny"), **config)


def test_int8_without_the_library_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_BUILT", False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        load(write_tiny_llama(tmp_path / "tiny"), kernels="auto", device="cpu")


@needs_native
def test_float32_and_int8_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        load(write_tiny_llama(tmp_path / "tiny"), dtype="float32")


@needs_native
def test_memory_is_counted_in_the_numbers_that_are_computed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    needed = load(folder)[1].num_parameters * 2
    monkeypatch.setattr(load_module, "available_bytes", lambda: needed)
    with pytest.raises(ModelFolderError, match="MiB"):
        load(folder, quantize="none")
    assert load(folder)[1].quantization == "int8"


@needs_native
def test_the_measured_loss_of_the_folder_is_told_with_an_int8_model_only(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    assert load(folder)[1].quality_loss is None
    (folder / "quality.json").write_text(json.dumps({"int8": METRICS, "int4": {}}))
    assert load(folder)[1].quality_loss == METRICS
    assert load(folder, quantize="none")[1].quality_loss is None
    (folder / "quality.json").write_text(json.dumps({"int4": {}}))
    assert load(folder)[1].quality_loss is None


@needs_native
def test_of_a_files_own_blocks_the_measured_loss_is_told_by_their_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content(), stored="Q4_1")
    four = {"perplexity": {"full": 15.0, "Q4_1": 15.5}}
    documented = {"Q4_1": four, "int8": METRICS}
    (tmp_path / "tiny.quality.json").write_text(json.dumps(documented))
    own = load(path, quantize="none")[1]
    assert (own.quantization, own.quality_loss) == ("Q4_1", four)
    smaller = load(path, quantize="int8")[1]
    assert (smaller.quantization, smaller.quality_loss) == ("int8", METRICS)


@needs_native
@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"int8": 3}', '{"int8": {"a": {"full": 1}}}', '{"int8": {"a": [1, 2]}}',
     '{"int8": {"a": {"full": 1, "int8": NaN}}}', '{"int8": {"a": {"full": "x", "int8": 2}}}'],
)  # fmt: skip
def test_a_broken_quality_file_is_a_clean_error(tmp_path: Path, text: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "quality.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"quality\.json"):
        load(folder)


def test_the_setting_reaches_the_engine_from_flag_and_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert engine_config(Settings(), ()).quantize == "none"
    assert engine_config(Settings(quantize="int8"), ()).quantize == "int8"
    monkeypatch.setenv("SHOAL_QUANTIZE", "int8")
    assert engine_config(Settings(), ()).quantize == "int8"
    assert engine_config(Settings(quantize="int4"), ()).quantize == "int4"
    with pytest.raises(ValueError, match="quantize"):
        Settings(quantize="int2")  # type: ignore[arg-type]


def stored(dtype: str, rows: int, cols: int) -> StoredTensor:
    if (block := BLOCKS.get(dtype)) is None:
        return StoredTensor(dtype, np.zeros((rows, cols), np.uint16), "a/b")
    row_bytes = cols // block.numbers * block.num_bytes
    return StoredTensor(dtype, np.zeros((rows, row_bytes), np.uint8), "a/b")


FILE = {
    Role("embedding"): stored("Q8_0", 1000, 256),
    Role("q.weight", 0): stored("Q4_1", 256, 256),
    Role("down.weight", 0): stored("Q6_K", 256, 256),
    Role("up.weight", 0): stored("Q4_K", 512, 256),
    Role("gate.weight", 0): stored("Q4_K", 512, 256),
    Role("k.weight", 0): stored("BF16", 64, 256),
}


def test_blocks_of_a_file_stay_unless_another_number_format_is_set() -> None:
    assert native_dtype("auto", "float32", blocks=True) == "blocks"
    assert native_dtype("bfloat16", "float32", blocks=True) == "bfloat16"
    assert native_dtype("float32", "float32", blocks=True) == "float32"
    assert native_dtype("auto", "float32", "int4", blocks=True) == "int4"
    assert main_block_type(FILE) == "Q4_K"
    assert main_block_type({Role("q.weight", 0): stored("BF16", 8, 32)}) is None


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("float32", [32] * 5), ("bfloat16", [16] * 5), ("blocks", [8.5, 5, 8.5, 5, 16]),
     ("int8", [8.5, 5, 8.5, 5, 8.5]), ("int4", [8.5, 5, 5, 5, 5])],
)  # fmt: skip
def test_memory_of_weights_is_known_before_they_are_packed(
    dtype: native.Dtype, bits: list[float]
) -> None:
    numbers = [1000 * 256, 256 * 256, 256 * 256, 2 * 512 * 256, 64 * 256]
    assert packed_bytes(FILE, dtype) == np.dot(bits, numbers) / 8
