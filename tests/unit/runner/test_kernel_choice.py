"""Who computes a model, and what the operator is told about it."""

from pathlib import Path
from typing import Any

import pytest

from shoal.checkpoint.open import open_model
from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.runner import kernel_choice
from shoal.runner.kernel_choice import KernelChoice, choose_kernels
from shoal.runner.load import check_model, load_runner
from tests.fakes.tiny_models import CONFIGS, write_tiny_model

SPEC = read_model(CONFIGS["llama"], "tiny/config.json").spec
INSTALL = r"pip install 'shoal\[torch\]'"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what is built, known and installed: machine(missing=["x"], torch=False)."""

    def set_machine(
        *, built: bool = True, missing: tuple[str, ...] = (), torch: bool = True, gpu: bool = False
    ) -> None:
        def supports(spec: DecoderSpec) -> list[str]:
            return list(missing)

        monkeypatch.setattr(native, "available", lambda: built)
        monkeypatch.setattr(native, "supports", supports)
        monkeypatch.setattr(kernel_choice, "has_torch", lambda: torch)
        monkeypatch.setattr(kernel_choice, "has_gpu", lambda: gpu)

    set_machine()
    return set_machine


def choose(**config: Any) -> KernelChoice:
    return choose_kernels(EngineConfig(models=(), **config), SPEC)


def test_auto_takes_the_native_library_and_has_nothing_to_say_about_it(machine: Any) -> None:
    assert choose() == KernelChoice("native")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"missing": ("the activation mish", "ALiBi")}, "native kernels lack the activation mish"),
        ({"built": False}, "the native library is not built"),
    ],
)
def test_auto_takes_pytorch_where_the_native_library_cannot_and_says_why(
    machine: Any, changes: dict[str, Any], reason: str
) -> None:
    machine(**changes)
    choice = choose()
    assert choice.kernels == "torch"
    assert reason in str(choice.reason)
    machine(**changes, torch=False)
    with pytest.raises(ConfigError, match=f"{reason}.*not installed: {INSTALL}"):
        choose()


def test_a_gpu_is_used_with_pytorch_and_without_it_the_cpu_computes_and_says_so(
    machine: Any,
) -> None:
    machine(gpu=True)
    assert choose() == KernelChoice("torch")
    assert choose(device="cpu") == KernelChoice("native")
    machine(gpu=True, torch=False)
    choice = choose()
    assert choice.kernels == "native"
    assert "pip install 'shoal[torch]'" in str(choice.reason)
    with pytest.raises(ConfigError, match=INSTALL):
        choose(device="cuda")


def test_native_kernels_that_lack_something_are_refused_by_its_name(machine: Any) -> None:
    assert choose(kernels="native") == KernelChoice("native")
    machine(missing=("ALiBi",))
    with pytest.raises(ConfigError, match=r"kernels=native lack ALiBi: set kernels=torch or auto"):
        choose(kernels="native")
    assert choose(kernels="torch") == KernelChoice("torch")


def test_pytorch_that_is_asked_for_and_not_installed_names_the_command(machine: Any) -> None:
    machine(torch=False)
    with pytest.raises(ConfigError, match=INSTALL):
        choose(kernels="torch")


def test_int8_needs_the_native_library_and_says_what_it_lacks(machine: Any) -> None:
    machine(missing=("ALiBi",))
    with pytest.raises(ConfigError, match=r"quantize=int8 .*native kernels lack ALiBi"):
        choose(quantize="int8")


def test_a_loaded_model_and_a_checked_one_say_why_and_which_keys_are_not_used(
    tmp_path: Path, machine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    machine(missing=("ALiBi",))
    folder = write_tiny_model(tmp_path / "tiny", brand_new_key=3)
    config = EngineConfig(models=(), num_threads=1)
    loaded = load_runner(ModelSource("m", str(folder)), config, 4 << 20, lambda _: None).loaded
    assert (loaded.kernels, loaded.kernels_reason) == ("torch", "the native kernels lack ALiBi")
    remarks = check_model(open_model(folder), config)
    assert remarks == [
        "keys of tiny/config.json that are not used: brand_new_key",
        "PyTorch computes, because the native kernels lack ALiBi",
    ]
    for remark in remarks:
        assert f"model m: {remark}" in caplog.text


def test_native_kernels_that_are_asked_for_and_not_built_are_refused(machine: Any) -> None:
    machine(built=False)
    with pytest.raises(ConfigError, match=r"not built.*C\+\+ compiler"):
        choose(kernels="native")
