"""llama.cpp's HTTP server: built from the sources inside the llama-cpp-python source package.

Says how it is built, which settings are tried and how it is started; converts models with `gguf`.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

from .gguf import Format, convert
from .process import Command, Contender, Unavailable
from .shapes import CACHE, Shape, model_folder

PACKAGE = "llama-cpp-python==0.3.36"
THREADS = 2
BUILD_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
)
# Tried once at 32 clients; the fastest is used for every level. All have continuous batching and,
# unless they say otherwise, flash attention and one KV buffer for each sequence.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "no busy waiting": ("--poll", "0"),
    "no flash attention": ("-fa", "off"),
    "one KV buffer for all": ("--kv-unified",),
}


def find_server(given: Path | None) -> Path:
    """The program at `given`, else the one built under `.cache/peers`, built when absent."""
    if given is not None:
        if not os.access(given, os.X_OK):
            raise Unavailable(f"{given} is no program")
        return given.absolute()
    built = CACHE / "llama.cpp" / "build" / "bin" / "llama-server"
    if not built.is_file():
        _build(CACHE / "llama.cpp")
    return built


def _build(folder: Path) -> None:
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"building llama-server needs {' and '.join(missing)}")
    if not (folder / "CMakeLists.txt").is_file():
        _unpack(_source_package(), folder)
    print("building llama-server (10 to 30 minutes, once) …", flush=True)
    configure = ["cmake", "-S", str(folder), "-B", str(folder / "build"), *BUILD_FLAGS]
    build = ["nice", "cmake", "--build", str(folder / "build"), "--target", "llama-server"]
    for argv in (configure, [*build, f"-j{os.cpu_count()}"]):
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-1500:]}")


def _source_package() -> Path:
    folder = CACHE / "sdist"
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    if not list(folder.glob("llama_cpp_python-*.tar.gz")):
        done = subprocess.run([*argv, "--dest", str(folder), PACKAGE], capture_output=True)
        if done.returncode:
            raise Unavailable(f"{PACKAGE} cannot be downloaded: {done.stderr.decode()[-500:]}")
    return max(folder.glob("llama_cpp_python-*.tar.gz"))


def _unpack(package: Path, folder: Path) -> None:
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(package) as archive:
        archive.extractall(draft, filter="data")
    (sources,) = draft.glob("*/vendor/llama.cpp")
    sources.rename(folder)
    shutil.rmtree(draft)


def version(server: Path) -> str:
    done = subprocess.run([str(server), "--version"], capture_output=True, text=True)
    return (done.stderr + done.stdout).strip().splitlines()[0]


def contenders(server: Path, variant: str) -> list[Contender]:
    """bf16 and q8_0 with the settings of `variant`."""
    settings = f"{THREADS} threads, slots = clients, variant: {variant} {VARIANTS[variant]}"
    return [
        Contender(
            f"llama-server {weights}",
            "llama-server",
            "int8" if weights == "q8_0" else weights,
            partial(_command, server, weights, variant),
            per_level=True,
            keep_alive=False,
            settings=settings,
        )
        for weights in ("bf16", "q8_0")
    ]


def gguf_file(folder: Path, weights: Format) -> Path:
    """The model of `folder` as GGUF, converted on the first call."""
    file = CACHE / "gguf" / f"{folder.name}-{weights}.gguf"
    if not file.is_file():
        convert(folder, file, weights)
    return file


def command(server: Path, file: Path, slots: int, context: int, *flags: str) -> Command:
    """`slots` sequences of `context` tokens. Its cache of earlier prompts in RAM is off: our
    prompts never return, so it could only cost."""
    argv = [str(server), "--model", str(file), "--host", "127.0.0.1", "--port", "{port}"]
    argv += ["--threads", str(THREADS), "--threads-batch", str(THREADS)]
    argv += ["--parallel", str(slots), "--ctx-size", str(slots * context)]
    argv += ["--cache-ram", "0", "--no-webui", "--log-verbosity", "2"]
    return Command([*argv, *([] if "-fa" in flags else ["-fa", "on"]), *flags])


def _command(server: Path, weights: Format, variant: str, shape: Shape, slots: int) -> Command:
    file = gguf_file(model_folder(shape), weights)
    return command(server, file, slots, shape.load.context, *VARIANTS[variant])
