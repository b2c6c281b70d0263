"""What the native library lacks goes to PyTorch, and the operator is told what it was."""

from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.model.spec import DecoderSpec, MlpSpec
from shoal.protocol.messages import EngineConfig
from shoal.runner.kernel_choice import KernelChoice, choose_kernels
from tests.kernels.building import llama

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels are not built")


def lacking() -> DecoderSpec:
    """A spec of a later version: an activation that nobody here knows."""
    return llama(mlp=MlpSpec(136, "relu2"))  # type: ignore[arg-type]


def choose(spec: DecoderSpec, **changes: Any) -> KernelChoice:
    return choose_kernels(EngineConfig(models=(), **{"device": "cpu", **changes}), spec)


def test_a_spec_that_the_library_runs_needs_no_reason() -> None:
    assert choose(llama()) == KernelChoice("native")


def test_pytorch_computes_what_the_library_lacks_and_the_reason_names_it() -> None:
    choice = choose(lacking())
    assert choice.kernels == "torch"
    assert choice.reason == "the native kernels lack the activation relu2"


@pytest.mark.parametrize("changes", [{"kernels": "native"}, {"quantize": "int8"}])
def test_settings_that_need_the_library_are_refused_with_what_it_lacks(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match="lack the activation relu2"):
        choose(lacking(), **changes)
