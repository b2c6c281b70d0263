"""The checks of `shoal doctor`. Each check is one function that returns findings; none prints.

Imports neither torch nor the server: versions come from package metadata.
"""

import importlib.metadata
import importlib.util
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from shoal import cgroup
from shoal.commands import machine
from shoal.commands.model_folders import ModelFolder, read_folder
from shoal.config import Settings, engine_config
from shoal.errors import ConfigError, ModelFolderError

SERVER_PACKAGES = ("fastapi", "uvicorn", "pydantic-settings", "msgspec", "safetensors")
FAST_PACKAGES = {"uvloop": "a faster event loop", "httptools": "faster HTTP parsing"}
NATIVE_MODULE = "shoal.kernels._native"
LEAST_MEMORY_BYTES = 512 << 20
INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `advice`: what to do if it is not `ok`. If an `essential` check is not
    ok, `shoal serve` cannot run."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    essential: bool = False


def all_checks(settings: Settings) -> Iterator[Finding]:
    yield check_python()
    yield check_cores()
    yield check_memory()
    yield check_instructions()
    yield from check_packages()
    yield check_kernels()
    yield check_torch()
    yield from check_models(settings)
    yield check_port(settings.host, settings.port)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    found = ".".join(map(str, version))
    return Finding("Python", version >= (3, 11), found, "install Python 3.11 or newer", True)


def check_cores() -> Finding:
    cores = machine.usable_cores()
    found = f"{cores:g} usable, {machine.cpu_model()}"
    return Finding(
        "cores", cores >= 2, found, "use 2 cores or more: one for the engine, one for HTTP"
    )


def check_memory() -> Finding:
    import psutil

    available = int(psutil.virtual_memory().available)
    tightest = cgroup.tightest_memory()
    limit = None if tightest is None else tightest.left
    usable = available if limit is None else min(available, limit)
    found = f"{usable / 2**30:.1f} GiB usable" + ("" if limit is None else " (cgroup limit)")
    return Finding("memory", usable >= LEAST_MEMORY_BYTES, found, "free 512 MiB or raise the limit")


def check_instructions() -> Finding:
    flags = machine.cpu_flags()
    known = [name for name in INSTRUCTION_SETS if name in flags]
    fast = {"avx2", "fma", "f16c"} <= flags or "asimd" in flags
    found = ", ".join(known) or f"{platform.machine()}, none known"
    return Finding("instructions", fast, found, "the portable kernels run here, but slowly")


def check_packages() -> Iterator[Finding]:
    install = "pip install 'shoal[server]'"
    missing = [name for name in SERVER_PACKAGES if _version(name) is None]
    found = f"{', '.join(missing)} missing" if missing else "all present"
    yield Finding("server packages", not missing, found, install, True)
    version = _version("tokenizers")
    yield Finding("tokenizers", version is not None, version or "missing", install, True)
    for name, benefit in FAST_PACKAGES.items():
        version = _version(name)
        yield Finding(name, version is not None, version or "missing", f"{install} for {benefit}")


def check_kernels() -> Finding:
    found = "native kernels built" if _native_is_built() else "not built; PyTorch is used"
    advice = "install with a C++ compiler to build the native kernels"
    return Finding("kernels", _native_is_built(), found, advice)


def check_torch() -> Finding:
    """Essential only if the native kernels are not built."""
    advice = "pip install 'shoal[torch]'"
    if (version := _version("torch")) is not None:
        return Finding("torch", True, version)
    if _native_is_built():
        uses = "training, GPUs and models that the native kernels do not know"
        return Finding("torch", True, f"not installed; for {uses}: {advice}")
    return Finding("torch", False, "missing, and the native kernels are not built", advice, True)


def check_models(settings: Settings) -> Iterator[Finding]:
    """Reads the folders that `shoal serve` would load with these settings, with the same code."""
    from shoal.checkpoint.find import find_models

    try:
        selection = find_models(settings.models, settings.models_dir, settings.default_model)
    except ConfigError as error:
        advice = "`shoal serve --help` lists the settings; `shoal train --help`: make a model"
        yield Finding("models", False, error.message, advice, True)
        return
    except ModelFolderError as error:
        yield Finding("models", False, error.message, essential=True)
        return
    config = engine_config(settings, selection.sources)
    num_bad = 0
    for source in selection.sources:
        model = read_folder(source, config)
        num_bad += bool(model.problems)
        yield _model_finding(model, essential=not source.may_fail)
    for name, reason in selection.failed.items():
        yield Finding(f"model {name}", False, reason)
    for name, how_to_get in selection.absent.items():
        yield Finding(f"model {name}", True, how_to_get)
    if num_bad == len(selection.sources):
        yield Finding("models", False, "none can be served", essential=True)


def _model_finding(model: ModelFolder, *, essential: bool) -> Finding:
    locks = {"verified": "lock verified", "none": "no lock file", "damaged": "damaged"}
    size = f"{model.num_parameters / 1e6:,.1f} M parameters"
    notes = model.problems or (size, locks[model.lock], *model.remarks)
    name = f"model {model.name}"
    return Finding(name, not model.problems, "; ".join(notes), essential=essential)


def check_port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            advice = "stop what listens there, or `shoal serve --port N`"
            return Finding("port", False, f"{host}:{port}: {reason}", advice)
    return Finding("port", True, f"{host}:{port} is free")


def _native_is_built() -> bool:
    return importlib.util.find_spec(NATIVE_MODULE) is not None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
