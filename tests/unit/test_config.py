"""Settings: file < environment < flag, ranges, the refusal of an open door, model folders."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shoal.config import (
    Settings,
    engine_config,
    environment_remarks,
    forget_secrets,
    load_settings,
)
from shoal.errors import ConfigError
from shoal.protocol.messages import EngineConfig, ModelSource


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine, an empty working directory."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, text: str, name: str = "settings.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def model_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_later_sources_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\nmax_n = 2\nmax_queue = 3\n")
    monkeypatch.setenv("SHOAL_PORT", "4")
    monkeypatch.setenv("SHOAL_MAX_N", "5")
    settings = load_settings(file, port=6)
    assert (settings.port, settings.max_n, settings.max_queue) == (6, 5, 3)


def test_defaults_serve_this_machine_only() -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.port == 8000
    assert not settings.api_keys
    assert not settings.cors_origins


def test_the_engines_defaults_are_those_of_the_settings() -> None:
    assert engine_config(load_settings(), ()) == EngineConfig(models=())


def test_a_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    toml(tmp_path, "port = 77\n", "shoal.toml")
    assert load_settings().port == 77


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(tmp_path / "none.toml")


def test_lists_come_as_text_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_API_KEYS", "ann:k1, bob:k2,")
    monkeypatch.setenv("SHOAL_CORS_ORIGINS", "https://a.example")
    settings = load_settings()
    assert settings.api_keys == ["ann:k1", "bob:k2"]
    assert settings.cors_origins == ["https://a.example"]


def test_an_empty_environment_variable_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_PORT", "")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1), ("port", 65536), ("port", "http"), ("max_body_bytes", 10), ("max_n", 0),
        ("device", "tpu"), ("dtype", "int3"), ("log_level", "loud"), ("max_queue", -1),
        ("request_timeout", 0), ("keepalive_interval", -1), ("stream_stall_timeout", 0),
        ("max_batch_size", 0), ("token_budget", 1), ("stream_buffer_chunks", 0),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        load_settings(**{name: value})


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="prot"):
        load_settings(toml(tmp_path, "prot = 8000\n"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "myhost"])
def test_an_address_that_others_reach_needs_keys_or_a_word(host: str) -> None:
    with pytest.raises(ValidationError, match="api_keys"):
        load_settings(host=host)
    load_settings(host=host, api_keys=["k"])
    load_settings(host=host, allow_unauthenticated=True)


def test_settings_are_not_written_into() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


def test_keys_are_never_printed() -> None:
    assert "secret" not in repr(load_settings(api_keys=["ann:secret"]))


def test_every_setting_says_what_it_is_for() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_engine_is_told_its_settings(tmp_path: Path) -> None:
    source = ModelSource("a", str(model_folder(tmp_path, "a")))
    settings = load_settings(
        threads=3, dtype="float32", max_batch_size=7, prefix_cache=False, drafts=False
    )
    config = engine_config(settings, (source,))
    assert (config.models, config.num_threads, config.dtype) == ((source,), 3, "float32")
    assert (config.max_batch_size, config.prefix_cache, config.drafts) == (7, False, False)
    assert config.token_budget == settings.token_budget


SERVICE_LINKS = {
    "SHOAL_PORT": "tcp://10.96.7.7:8000",
    "SHOAL_SERVICE_HOST": "10.96.7.7",
    "SHOAL_SERVICE_PORT": "8000",
    "SHOAL_SERVICE_PORT_HTTP": "8000",
    "SHOAL_PORT_8000_TCP": "tcp://10.96.7.7:8000",
    "SHOAL_PORT_8000_TCP_PROTO": "tcp",
    "SHOAL_PORT_8000_TCP_ADDR": "10.96.7.7",
    "SHOAL_UI_PORT": "udp://10.96.7.8:53",
    "SHOAL_UI_SERVICE_HOST": "10.96.7.8",
}


def test_the_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8000
    (remark,) = environment_remarks(SERVICE_LINKS)
    assert remark.startswith("SHOAL_PORT=tcp://10.96.7.7:8000 is ignored")
    assert "enableServiceLinks: false" in remark


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SHOAL_PROT", ": did you mean SHOAL_PORT?"),
        ("shoal_max_bach_size", ": did you mean SHOAL_MAX_BATCH_SIZE?"),
        ("SHOAL_SOMETHING_ELSE", ""),
    ],
)
def test_a_variable_that_is_no_setting_is_told(name: str, hint: str) -> None:
    environ = {name: "sk-secret", "SHOAL_PORT": "1", "shoal_host": "::1", "SHOAL_BASE_URL": "x"}
    assert environment_remarks(environ) == [f"{name.upper()} is no setting and is ignored{hint}"]


def test_keys_leave_the_environment_before_a_child_can_inherit_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SHOAL_API_KEYS", "shoal_admin_keys", "SHOAL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-secret")
    forget_secrets()
    assert "sk-secret" not in os.environ.values()
