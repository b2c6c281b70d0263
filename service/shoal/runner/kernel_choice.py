"""Which kernels compute a model: the native library's or PyTorch, and why not the native ones."""

from importlib.util import find_spec
from typing import Literal, NamedTuple

from shoal.errors import ConfigError
from shoal.model.spec import DecoderSpec
from shoal.protocol.messages import EngineConfig
from shoal.runner.device import has_gpu

INSTALL_TORCH = "pip install 'shoal[torch]'"


class KernelChoice(NamedTuple):
    """What computes."""

    kernels: Literal["native", "torch"]
    reason: str | None = None
    """Why not what one would expect: half a sentence for the operator."""


def choose_kernels(config: EngineConfig, spec: DecoderSpec) -> KernelChoice:
    """auto: the native library where it is built and knows all of the model, unless there is a GPU
    to use. Raises ConfigError for settings that contradict each other or the model, and for
    PyTorch where it is needed and not installed."""
    choice = _choose(config, spec)
    if choice.kernels == "native":
        return choice
    if config.quantize != "none":
        raise ConfigError(
            f"quantize={config.quantize} needs the native CPU kernels, and PyTorch would compute "
            f"here{_because(choice.reason)}: set quantize=none, or device=cpu and kernels=native "
            "(a library that is not built comes with a reinstall of Shoal with a C++ compiler at "
            "hand)"
        )
    if config.kv_cache_dtype != "auto":
        raise ConfigError(
            f"kv_cache_dtype={config.kv_cache_dtype} needs the native CPU kernels, and PyTorch "
            f"would compute here{_because(choice.reason)}: set kv_cache_dtype=auto, or device=cpu "
            "and kernels=native"
        )
    if not has_torch():
        raise ConfigError(
            f"PyTorch is needed to compute this model{_because(choice.reason)}, and it is not "
            f"installed: {INSTALL_TORCH}"
        )
    return choice


def why_no_native_library() -> str | None:
    """What Python says about a native library that it does not find or cannot load; None where it
    is loaded."""
    from shoal.kernels import native

    return None if native.available() else native.why_not_available() or "not built"


def has_torch() -> bool:
    """Is PyTorch installed? It is not loaded for the answer."""
    return find_spec("torch") is not None


def _choose(config: EngineConfig, spec: DecoderSpec) -> KernelChoice:
    from shoal.kernels import native

    if config.kernels == "torch":
        return KernelChoice("torch")
    missing = ", ".join(native.supports(spec))
    if config.kernels == "native":
        if not native.available():
            raise ConfigError(
                "kernels=native, and the native library is not built: reinstall Shoal with a C++ "
                "compiler at hand, or set kernels=auto"
            )
        if config.device == "cuda":
            raise ConfigError("kernels=native compute on the CPU; device cuda needs kernels=torch")
        if missing:
            raise ConfigError(f"kernels=native lack {missing}: set kernels=torch or auto")
        return KernelChoice("native")
    if config.device == "cuda":
        return KernelChoice("torch")
    if not native.available():
        return KernelChoice("torch", "the native library is not built")
    if missing:
        return KernelChoice("torch", f"the native kernels lack {missing}")
    if config.device == "auto" and has_gpu():
        if has_torch():
            return KernelChoice("torch")
        reason = f"the GPU needs PyTorch, which is not installed ({INSTALL_TORCH})"
        return KernelChoice("native", reason)
    return KernelChoice("native")


def _because(reason: str | None) -> str:
    return "" if reason is None else f" ({reason})"
