"""What the files for running Shoal elsewhere promise, read without running them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from shoal.checkpoint.catalogue import read_catalogue
from shoal.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SERVICE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["shoal"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_compose_gives_the_container_nothing_it_does_not_need() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])


def test_compose_limits_what_the_container_can_take() -> None:
    assert SERVICE["cpus"] == "${CPUS:-2}"
    assert SERVICE["mem_limit"] == "${MEMORY:-1g}"
    assert 64 <= SERVICE["pids_limit"] <= 1024
    assert all("size=" in mount for mount in SERVICE["tmpfs"])
    assert SERVICE["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= SERVICE["logging"]["options"].keys()


@pytest.mark.parametrize(
    ("release", "base", "goes_on"),
    [
        ("false", "python:3.11-slim", True),
        ("true", "python:3.11-slim", False),
        ("true", f"python:3.11-slim@sha256:{'0' * 64}", True),
        ("yes", f"python@sha256:{'0' * 64}", False),
    ],
)
def test_a_release_names_its_base_image_by_digest(release: str, base: str, goes_on: bool) -> None:
    """Runs the first command of the build."""
    (command,) = re.findall(r"^RUN (case .*?esac)$", DOCKERFILE, re.M | re.S)
    environment = {"RELEASE": release, "BASE_IMAGE": base}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == goes_on
    assert ("by digest" in done.stderr) != goes_on


def test_the_list_of_what_the_image_holds_is_whole() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/sbom.py", "server"], cwd=ROOT, capture_output=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["bom-ref"]: part for part in told["components"]}
    lock = (ROOT / "requirements" / "server.lock").read_text()
    pinned = re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M)
    assert {f"pkg:pypi/{name}@{version}" for name, version in pinned} == {
        ref for ref in parts if ref.startswith("pkg:")
    }
    for model in ("minnow", "pilotfish"):
        lock_file = json.loads((ROOT / "models" / model / "lock.json").read_text())
        files = {part["name"]: part for part in parts[f"model:{model}"]["components"]}
        assert files.keys() == lock_file["files"].keys()
    assert set(told["dependencies"][0]["dependsOn"]) == parts.keys()
    assert "deploy/sbom.py" in DOCKERFILE
    assert "!deploy/sbom.py" in (ROOT / ".dockerignore").read_text()


def test_compose_starts_only_with_keys() -> None:
    assert SERVICE["environment"]["SHOAL_API_KEYS"].startswith("${SHOAL_API_KEYS:?")
    assert "ALLOW_UNAUTHENTICATED=" not in "".join(re.findall(r"^[^#].*", DOCKERFILE, re.M))


def test_a_stopping_container_waits_for_the_drain() -> None:
    settings = Settings()
    needed_s = settings.shutdown_delay + settings.drain_timeout + 5
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) >= needed_s


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    (user,) = re.findall(r"^USER (.*)$", DOCKERFILE, re.M)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_variables_of_the_image_are_settings() -> None:
    names = set(re.findall(r"SHOAL_([A-Z_]+)[=:]", DOCKERFILE)) | {
        name.removeprefix("SHOAL_") for name in SERVICE["environment"]
    }
    assert names
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_the_image_has_pytorch_only_where_it_is_asked_for() -> None:
    assert re.findall(r"^ARG WITH_TORCH=(.*)$", DOCKERFILE, re.M) == ["false"]
    assert re.findall(r"install\.sh \S+ (.*torch.*); fi", DOCKERFILE) == ["torch-cpu"]
    assert SERVICE["build"]["args"]["WITH_TORCH"] == "${WITH_TORCH:-false}"


def test_the_image_fetches_a_model_only_where_it_is_asked_for() -> None:
    assert re.findall(r"^ARG MODELS=(.*)$", DOCKERFILE, re.M) == ['""']
    assert SERVICE["build"]["args"]["MODELS"] == "${MODELS:-}"
    ignored = (ROOT / ".dockerignore").read_text().split()
    for entry in read_catalogue(ROOT / "models").values():
        pulled = "models/*.gguf" if not entry.files[0].name else f"models/{entry.name}"
        assert pulled in ignored, "one that was pulled beside the Dockerfile stays outside"


@pytest.mark.parametrize(
    ("models", "pulled", "served"),
    [
        ("", True, "serve --host"),
        ("minnow", False, "serve minnow --host"),
        ("minnow,smollm2", True, "serve minnow smollm2 --host"),
        ("minnow pilotfish", False, "serve minnow pilotfish --host"),
        ("models/mine", False, "serve models/mine --host"),
    ],
)
def test_make_serve_pulls_what_it_serves(models: str, pulled: bool, served: str) -> None:
    """`make` shows what it would run, in an environment that is not there yet."""
    command = ["make", "--dry-run", "serve", f"MODELS={models}", "VENV=build/none"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("shoal.commands.fetch smollm2 models" in shown) == pulled
    assert served in " ".join(shown.split())
