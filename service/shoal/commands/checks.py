"""The checks of `shoal doctor`. Each check is one function that returns findings; none prints.

What `shoal serve` refuses is found by calling the function that refuses it there. Versions come
from package metadata: torch is not imported.
"""

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shoal import cgroup
from shoal.commands import machine
from shoal.commands.model_folders import ModelFolder, adapter_problem, read_folder
from shoal.config import Settings, engine_config, environment_remarks
from shoal.errors import ConfigError, ModelFolderError, ShoalError

SERVER_PACKAGES = ("fastapi", "uvicorn", "pydantic-settings", "msgspec", "safetensors")
FAST_PACKAGES = {"uvloop": "a faster event loop", "httptools": "faster HTTP parsing"}
NATIVE_MODULE = "shoal.kernels._native"
LEAST_MEMORY_BYTES = 512 << 20
ENGINE_START_BYTES = 20 << 20
"""What serving has taken, beyond this process, by the time that the engine plans its memory."""
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
    yield check_kernels(settings)
    yield check_torch(settings)
    yield from check_environment(settings)
    yield check_keys(settings)
    yield from check_models(settings)
    yield from check_ports(settings)


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


def check_kernels(settings: Settings) -> Finding:
    """The native library, loaded as the engine loads it."""
    advice = "install with a C++ compiler to build the native kernels"
    is_needed = settings.kernels == "native"
    problem = _native_problem()
    if problem is None:
        return Finding("kernels", True, "native kernels built")
    found = f"not usable ({problem})" if _native_is_installed() else "not built"
    return Finding("kernels", False, f"{found}; PyTorch is used", advice, is_needed)


def check_torch(settings: Settings) -> Finding:
    """Essential where nothing else would compute."""
    advice = "pip install 'shoal[torch]'"
    if (version := _version("torch")) is not None:
        return Finding("torch", True, version)
    if settings.kernels == "torch" or settings.device == "cuda":
        wanted = "kernels=torch" if settings.kernels == "torch" else "device=cuda"
        return Finding("torch", False, f"missing, and {wanted} needs it", advice, True)
    if _native_problem() is None:
        uses = "training, GPUs and models that the native kernels do not know"
        return Finding("torch", True, f"not installed; for {uses}: {advice}")
    return Finding("torch", False, "missing, and the native kernels are not built", advice, True)


def check_environment(settings: Settings) -> Iterator[Finding]:
    """What `shoal serve` warns of."""
    from shoal.server.serve import access_remarks

    for remark in environment_remarks():
        yield Finding("environment", False, remark)
    for remark in access_remarks(settings):
        yield Finding("access", False, remark, "set keys_file or api_keys")


def check_keys(settings: Settings) -> Finding:
    from shoal.server.auth import check_keys

    try:
        check_keys(settings)
    except ConfigError as error:
        return Finding("keys", False, error.message, "`shoal keys --help`", True)
    kinds = {"keys_file": settings.keys_file, "api_keys": settings.api_keys}
    given = [name for name, value in kinds.items() if value]
    return Finding("keys", True, f"from {' and '.join(given)}" if given else "none are needed")


def check_models(settings: Settings) -> Iterator[Finding]:
    """Reads the folders that `shoal serve` would load with these settings, with the same code, and
    plans their memory as the engine does."""
    from shoal.checkpoint.find import find_models
    from shoal.checkpoint.find_adapters import find_adapters
    from shoal.runner.device import available_bytes
    from shoal.runner.memory_plan import plan_memory

    try:
        selection = find_models(settings.models, settings.models_dir, settings.default_model)
        adapters = find_adapters(settings.adapters, selection.sources)
    except ConfigError as error:
        advice = "`shoal serve --help` lists the settings; `shoal train --help`: make a model"
        yield Finding("models", False, error.message, advice, True)
        return
    except ModelFolderError as error:
        yield Finding("models", False, error.message, essential=True)
        return
    config = engine_config(settings, selection.smallest_first)
    available = available_bytes()
    plan = plan_memory(config, None if available is None else available - ENGINE_START_BYTES)
    if plan.remark is not None:
        yield Finding("KV cache", False, plan.remark)
    num_bad = 0
    for source in selection.sources:
        model = read_folder(source, config)
        if not model.problems and source.name in plan.refused:
            model = replace(model, problems=(plan.refused[source.name],))
        num_bad += bool(model.problems)
        yield _model_finding(model, essential=not source.may_fail)
    for name, reason in selection.failed.items():
        yield Finding(f"model {name}", False, reason)
    for name, how_to_get in selection.absent.items():
        yield Finding(f"model {name}", True, how_to_get)
    if num_bad == len(selection.sources):
        yield Finding("models", False, "none can be served", essential=True)
    for adapter in adapters:
        problem = adapter_problem(adapter, selection.sources, config)
        found = problem or f"fits {adapter.model}"
        yield Finding(f"adapter {adapter.name}", problem is None, found, essential=True)


def _model_finding(model: ModelFolder, *, essential: bool) -> Finding:
    locks = {"verified": "lock verified", "none": "no lock file", "damaged": "damaged"}
    size = f"{model.num_parameters / 1e6:,.1f} M parameters"
    notes = model.problems or (size, locks[model.lock], *model.remarks)
    name = f"model {model.name}"
    return Finding(name, not model.problems, "; ".join(notes), essential=essential)


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Listens as `shoal serve` would."""
    from shoal.server.wire.listener import listen

    ports = {"port": settings.port, "probe port": settings.probe_port}
    for name, port in ports.items():
        if port is None:
            continue
        try:
            listen(settings, port).close()
        except ShoalError as error:
            yield Finding(name, False, error.message, "stop what listens there", True)
        else:
            yield Finding(name, True, f"{settings.host}:{port} is free")


def _native_is_installed() -> bool:
    return importlib.util.find_spec(NATIVE_MODULE) is not None


def _native_problem() -> str | None:
    from shoal.runner.kernel_choice import why_no_native_library

    return why_no_native_library()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
