"""A model folder to a runner: what is picked, what is said about it, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError, ModelFolderError
from shoal.kernels import native
from shoal.protocol.messages import EngineConfig, LoadedModel, ModelSource
from shoal.runner import load as load_module
from shoal.runner.load import load_runner, num_kv_blocks
from tests.fakes.tiny_models import write_tiny_gpt2, write_tiny_llama
from tests.unit.runner.building import new_row, plan

ROOT = Path(__file__).resolve().parents[3]
needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")


def load(folder: Path, kv_bytes: int = 4 << 20, **config: Any) -> tuple[Any, LoadedModel, int]:
    settings = EngineConfig(models=(), num_threads=1, **{"kernels": "torch", **config})
    return load_runner(ModelSource("tiny", str(folder)), settings, kv_bytes, lambda _: None)


def test_what_is_loaded_is_said_as_it_is(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    loaded = load(folder).loaded
    lock = json.loads((folder / "lock.json").read_text())
    assert loaded.name == "tiny"
    assert loaded.vocab_size == 261  # the tokenizer's ids; the embedding has 272 rows
    assert loaded.max_model_len == 256
    assert loaded.weights_hash == lock["files"]["model.safetensors"]["sha256"][:16]
    assert (loaded.dtype, loaded.device, loaded.kernels) == ("float32", "cpu", "torch")
    config = json.loads((folder / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    assert loaded.num_parameters > 2 * 272 * hidden + layers * hidden * hidden


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("write", [write_tiny_llama, write_tiny_gpt2])
def test_a_loaded_runner_answers_a_plan(tmp_path: Path, write: Any, kernels: str) -> None:
    runner, loaded, num_blocks, *_ = load(write(tmp_path / "tiny"), kernels=kernels)
    blocks = [num_blocks - 1, 0]
    result = runner.run(plan((1, 0, 20), new=[new_row(1, list(range(20)), blocks)]))
    assert result.token_ids[0] is not None
    assert result.token_ids[0] < loaded.vocab_size
    assert loaded.kernels == ("torch" if kernels == "torch" else native.kernel_sets()[0])


@needs_native
def test_native_and_torch_say_the_same_in_text_and_numbers(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype="bfloat16")
    results = []
    for kernels in ("native", "torch"):
        runner, *_ = load(folder, kernels=kernels, dtype="float32")
        results.append(runner.run(plan((1, 0, 30), new=[new_row(1, list(range(30)), [5, 2])])))
    assert results[0].token_ids == results[1].token_ids


def test_progress_only_grows_and_ends_at_one(tmp_path: Path) -> None:
    heard: list[float] = []
    settings = EngineConfig(models=(), kernels="torch", num_threads=1)
    source = ModelSource("tiny", str(write_tiny_llama(tmp_path / "tiny")))
    load_runner(source, settings, 1 << 20, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize(
    ("stored", "wanted", "computed"),
    [
        ("float32", "auto", "float32"),
        ("bfloat16", "auto", "float32"),  # exact, and faster on a CPU
        ("float16", "auto", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_torch_dtype_on_a_cpu(tmp_path: Path, stored: str, wanted: str, computed: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype=stored)
    assert load(folder, dtype=wanted, device="cpu")[1].dtype == computed


@needs_native
@pytest.mark.parametrize(
    ("stored", "kept"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")],
)
def test_native_auto_keeps_what_the_file_stores_whatever_its_config_claims(
    tmp_path: Path, stored: str, kept: str
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype=stored)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    assert load(folder, kernels="native")[1].dtype == kept


def test_the_context_can_be_bounded_but_not_stretched(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    assert load(folder, max_model_len=100)[1].max_model_len == 100
    assert load(folder, max_model_len=10_000)[1].max_model_len == 256


def test_blocks_fill_the_budget_and_no_more_than_a_full_batch_can_use() -> None:
    settings, block_bytes = EngineConfig(models=(), max_batch_size=4), 6144
    assert num_kv_blocks(block_bytes, settings, 10 * block_bytes + 1, 256) == 10
    assert num_kv_blocks(block_bytes, settings, 1 << 40, 256) == 4 * 16
    with pytest.raises(ModelFolderError, match="kv_cache_bytes"):
        num_kv_blocks(block_bytes, settings, block_bytes, 256)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"261 ids.*only 260 rows"):
        load(write_tiny_llama(tmp_path / "tiny", vocab_size=260))


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": {"vocab": 3}}'])
def test_a_broken_tokenizer_is_a_clean_error(tmp_path: Path, text: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json"):
        load(folder)


def test_weights_that_do_not_fit_in_memory_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setattr(load_module, "available_bytes", lambda: 1000)
    with pytest.raises(ModelFolderError, match="MiB"):
        load(folder)


def test_native_kernels_on_a_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="native"):
        load(write_tiny_llama(tmp_path / "tiny"), kernels="native", device="cuda")


@needs_native
def test_native_kernels_have_one_block_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block_size"):
        load(write_tiny_llama(tmp_path / "tiny"), kernels="native", block_size=8)


@needs_native
def test_the_native_path_never_loads_torch(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    code = f"""
import sys
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.runner.load import load_runner
config = EngineConfig(models=(), kernels="auto", device="cpu", num_threads=1)
load_runner(ModelSource("tiny", {str(folder)!r}), config, 1 << 20, lambda progress: None)
sys.exit("torch" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
