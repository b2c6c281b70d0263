"""What the files for running Shoal elsewhere promise, read without running them."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from shoal.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SERVICE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["shoal"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_compose_gives_the_container_nothing_it_does_not_need() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])


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
    assert "models/*.gguf" in ignored, "one that was pulled beside the Dockerfile stays outside"


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
