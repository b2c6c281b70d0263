"""What fits into the memory that is available, decided before loading."""

from pathlib import Path

import pytest

from shoal.cgroup import Memory
from shoal.errors import ModelFolderError
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.runner import memory_plan
from shoal.runner.memory_plan import LEAST_KV_BYTES, RESERVED_BYTES, plan_memory
from tests.fakes.tiny_models import write_tiny_llama

MIB = 1 << 20


def sources(tmp_path: Path, num: int) -> tuple[ModelSource, ...]:
    folders = [write_tiny_llama(tmp_path / f"tiny{number}") for number in range(num)]
    return tuple(ModelSource(folder.name, str(folder)) for folder in folders)


@pytest.fixture(autouse=True)
def _needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model needs 20 MiB, and there is a limit."""
    monkeypatch.setattr(memory_plan, "memory_needed", lambda files, config: (20 * MIB, False))
    monkeypatch.setattr(memory_plan, "tightest_memory", lambda: Memory(200 * MIB, 0))


def test_where_there_is_plenty_nothing_is_read_and_nothing_changes(tmp_path: Path) -> None:
    config = EngineConfig(models=(ModelSource("none", str(tmp_path / "none")),))
    plan = plan_memory(config, 8 << 30)
    assert (plan.kv_cache_bytes, plan.refused, plan.remark) == (config.kv_cache_bytes, {}, None)


def test_the_kv_cache_gets_what_the_models_leave(tmp_path: Path) -> None:
    config = EngineConfig(models=sources(tmp_path, 2))
    plan = plan_memory(config, RESERVED_BYTES + 100 * MIB)
    assert plan.kv_cache_bytes == 60 * MIB
    assert not plan.refused
    assert plan.remark is not None
    for number in ("60 MiB instead of 256", "164 MiB were available", "a limit of 200 MiB"):
        assert number in plan.remark


def test_a_model_without_room_is_refused_with_the_numbers_and_the_way_out(tmp_path: Path) -> None:
    config = EngineConfig(models=sources(tmp_path, 2))
    plan = plan_memory(config, RESERVED_BYTES + 30 * MIB)
    plan.check(config.models[0])
    assert plan.kv_cache_bytes == 10 * MIB
    with pytest.raises(ModelFolderError) as caught:
        plan.check(config.models[1])
    for words in ("needs 20 MiB", "10 MiB are left", "a limit of 200 MiB", "raise the limit"):
        assert words in caught.value.message


@pytest.mark.parametrize("available", [0, RESERVED_BYTES, RESERVED_BYTES + 20 * MIB])
def test_with_too_little_for_any_model_all_are_refused(tmp_path: Path, available: int) -> None:
    config = EngineConfig(models=sources(tmp_path, 2))
    plan = plan_memory(config, available)
    assert plan.refused.keys() == {"tiny0", "tiny1"}
    assert plan.kv_cache_bytes >= LEAST_KV_BYTES


def test_pytorch_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "memory_needed", lambda files, config: (20 * MIB, True))
    config = EngineConfig(models=sources(tmp_path, 2), kernels="torch")
    available = memory_plan.RESERVED_TORCH_BYTES + 40 * MIB + LEAST_KV_BYTES
    assert not plan_memory(config, available).refused
    assert plan_memory(config, available - MIB).refused.keys() == {"tiny1"}


def test_a_folder_that_cannot_be_read_is_left_to_loading(tmp_path: Path) -> None:
    config = EngineConfig(models=(ModelSource("none", str(tmp_path / "none")),))
    assert not plan_memory(config, RESERVED_BYTES + 30 * MIB).refused
