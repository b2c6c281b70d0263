"""--kv_cache_dtype int8: what fits, what is computed, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.config import Settings, engine_config
from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.protocol.params import OutputParams
from shoal.protocol.step import LoadedRunner
from shoal.runner.load import load_runner
from tests.fakes.tiny_models import write_tiny_llama
from tests.unit.runner.building import new_row, plan

needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")
KV_BYTES = 1 << 20


def load(folder: Path, **config: Any) -> LoadedRunner:
    settings = EngineConfig(
        models=(),
        kv_cache_bytes=KV_BYTES,
        **{"kernels": "native", "num_threads": 1, **config},
    )
    return load_runner(ModelSource("tiny", str(folder)), settings, KV_BYTES, lambda _: None)


@needs_native
def test_more_tokens_fit_the_same_memory(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", head_dim=64, max_position_embeddings=4096)
    whole, small = (load(folder, kv_cache_dtype=kv_dtype) for kv_dtype in ("auto", "int8"))
    assert small.num_blocks > 3.5 * whole.num_blocks  # than float32
    for loaded in (whole, small):
        block_bytes = loaded.runner._backend._model.block_bytes  # type: ignore[attr-defined]
        assert loaded.num_blocks == KV_BYTES // block_bytes


@needs_native
def test_logprobs_are_close_to_those_of_whole_keys_and_values(tmp_path: Path) -> None:
    folder, values = write_tiny_llama(tmp_path / "tiny"), []
    for kv_dtype in ("auto", "int8"):
        runner = load(folder, kv_cache_dtype=kv_dtype).runner
        row = new_row(1, list(range(30)), [5, 2], output=OutputParams(prompt_logprobs=0))
        result = runner.run(plan((1, 0, 30), new=[row]))
        values.append([one.logprob for one in result.prompt_logprobs[1]])
    assert 0 < np.abs(np.subtract(*values)).max() < 0.05


def test_pytorch_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    with pytest.raises(ConfigError, match=r"kv_cache_dtype=int8 needs the native.*set kv_cache_"):
        load(folder, kernels="torch", kv_cache_dtype="int8")


@needs_native
def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kv_cache_dtype=fp8 is unknown: set auto or int8"):
        load(write_tiny_llama(tmp_path / "tiny"), kv_cache_dtype="fp8")


def test_the_setting_reaches_the_engine() -> None:
    assert engine_config(Settings(kv_cache_dtype="int8"), ()).kv_cache_dtype == "int8"
