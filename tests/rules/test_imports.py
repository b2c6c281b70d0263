"""Who may import whom. The flow is server -> text -> bridge -> engine -> runner -> model, sampling,
kernels; imports point to the right; text, runner and model ask checkpoint for model files. Every
exception stands here, in view.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.rules.imports import Import, package_imports, read_imports

SHARED = {"protocol", "config", "errors", "logs", "log_writer", "metrics", "cgroup"}

# Folder -> what of ours it may import. Those not named import nothing of ours.
MAY_IMPORT = {
    "server": {"text", "bridge", "checkpoint"} | SHARED,
    "text": {"bridge", "checkpoint"} | SHARED,
    "bridge": SHARED,
    "engine": SHARED,
    "runner": {"model", "sampling", "kernels", "checkpoint"} | SHARED,
    "sampling": {"kernels"} | SHARED,
    "train": {"checkpoint", "model", "text"} | SHARED,
    "model": {"checkpoint"} | SHARED,
    "checkpoint": {"protocol", "errors"},
    "kernels": SHARED,  # and model/spec.py: SPEC_IN_KERNELS
    **dict.fromkeys(SHARED, SHARED),
    # A command calls any part; see LOADED_WHEN_RUN.
    "commands": {"client", "server", "text", "bridge", "engine", "runner", "checkpoint", "train"}
    | SHARED,
    "cli": {"commands"},
    "__main__": {"cli"},
    "__init__": {"client"},
}
# The wiring files know both sides of a border and hold no logic.
WIRING = {("bridge/local.py", "engine"), ("engine/process.py", "runner")}
# The kernels execute a spec: the numbers of a network, which import nothing.
SPEC_IN_KERNELS = ("kernels/native.py", "shoal.model.spec")

# These load what they call only when it is called: `shoal --help` and `import shoal` stay quick.
LOADED_WHEN_RUN = {"commands", "cli", "__init__"}
CHEAP = {"commands", "errors", "cgroup"}
LOADED_BY_THE_DOCTOR = ("commands/checks.py", "config")

TORCH = {"torch", "transformers", "triton"}
WEB = {"fastapi", "fastapi_offline", "starlette", "uvicorn", "httptools"}
CALLS_OUT = {"httpx", "httpx2", "requests", "urllib3", "aiohttp", "huggingface_hub"}
CLIENT_NEEDS = {"httpx", "pydantic", "pydantic_core", "typing_extensions"}
CLIENT_MAY_DEFER = {"openai"}  # Client.openai() hands out the official client, where installed
PROTOCOL_NEEDS = {"msgspec"}  # the frames between the processes are msgpack


@dataclass(frozen=True, slots=True)
class Rule:
    """A sentence, what breaks it, and an example (file, line of code) that does."""

    text: str
    broken_by: Callable[[Import], bool]
    example: tuple[str, str]


def imports_torch(found: Import) -> bool:
    return found.package in TORCH or found.module == "safetensors.torch"


def is_foreign(found: Import, packages: set[str]) -> bool:
    return found.package not in sys.stdlib_module_names | packages | {"shoal"}


RULES = {
    "folders": Rule(
        "Only to the right in the flow: server -> text -> bridge -> engine -> runner -> model, "
        "sampling, kernels; everything may import protocol, config, errors, logs, metrics, cgroup",
        lambda found: (
            found.target not in ("", found.place)
            and found.target not in MAY_IMPORT.get(found.place, set())
            and (found.file, found.target) not in WIRING
            and (found.file, found.module) != SPEC_IN_KERNELS
        ),
        ("engine/scheduler.py", "from shoal.runner import model_runner"),
    ),
    "client": Rule(
        "The client imports the HTTP client and pydantic, and nothing else of ours",
        lambda found: (
            found.place == "client"
            and not (found.deferred and found.package in CLIENT_MAY_DEFER)
            and (is_foreign(found, CLIENT_NEEDS) or found.target not in ("", "client"))
        ),
        ("client/_exchange.py", "from shoal.errors import ShoalError"),
    ),
    "train": Rule(
        "Training stands apart from serving: of ours it imports text, model and checkpoint at most",
        lambda found: (
            found.place == "train"
            and found.target not in {"", "train", "text", "model", "checkpoint"} | SHARED
        ),
        ("train/run.py", "import shoal.runner.load"),
    ),
    "recipes": Rule(
        "Nothing imports a recipe's code: training loads it by the path that the user gives",
        lambda found: found.package in {"models", "recipes"},
        ("train/run.py", "from models.recipes.minnow import recipe"),
    ),
    "protocol": Rule(
        "The protocol is plain data: the standard library and msgspec",
        lambda found: found.place == "protocol" and is_foreign(found, PROTOCOL_NEEDS),
        ("protocol/params.py", "import pydantic"),
    ),
    "torch": Rule(
        "torch only in runner, model/torch and train",
        lambda found: (
            imports_torch(found)
            and found.place not in {"runner", "train"}
            and not found.file.startswith("model/torch/")
        ),
        ("server/serve.py", "def f():\n    import torch"),
    ),
    "web": Rule(
        "Web packages only in server",
        lambda found: found.package in WEB and found.place != "server",
        ("text/task.py", "from fastapi import Request"),
    ),
    "asyncio": Rule(
        "asyncio only in server, text, bridge, client and commands",
        lambda found: (
            found.package in {"asyncio", "anyio", "uvloop"}
            and found.place not in {"server", "text", "bridge", "client", "commands"}
        ),
        ("engine/process.py", "import asyncio"),
    ),
    "calls out": Rule(
        "The server cannot call out: HTTP clients only in client and commands",
        lambda found: found.package in CALLS_OUT and found.place not in {"client", "commands"},
        ("server/app.py", "import httpx"),
    ),
    "loaded when run": Rule(
        "The command line and the package itself load a part only when it is used",
        lambda found: (
            found.place in LOADED_WHEN_RUN
            and not found.deferred
            and found.target not in {"", *CHEAP}
            and (found.file, found.target) != LOADED_BY_THE_DOCTOR
        ),
        ("commands/chat.py", "from shoal.client import Client"),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_the_package_keeps_the_rule(name: str) -> None:
    broken = [str(found) for found in package_imports() if RULES[name].broken_by(found)]
    assert not broken, "\n".join([f"rule: {RULES[name].text}", *broken])


@pytest.mark.parametrize("name", RULES)
def test_the_rule_notices_a_breach(name: str) -> None:
    file, code = RULES[name].example
    assert any(RULES[name].broken_by(found) for found in read_imports(file, code))


def test_every_exception_is_in_use() -> None:
    used = {(found.file, found.target) for found in package_imports()}
    assert used >= WIRING | {LOADED_BY_THE_DOCTOR}
    assert SPEC_IN_KERNELS in {(found.file, found.module) for found in package_imports()}
