"""`shoal serve` up to the moment the server would start: flags, sources, messages."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shoal.cli import build_app
from shoal.commands import serve
from shoal.config import Settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no ./shoal.toml


def settings_of(config: Path | None = None, **flags: Any) -> Settings:
    return serve.checked_settings(config, flags)


def test_every_setting_is_a_flag() -> None:
    parameters = inspect.signature(serve.make_command()).parameters
    assert list(parameters) == ["paths", "config", *Settings.model_fields]


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ("port", "--port"),
        ("max_batch_size", "--max-batch-size"),
        ("models", "--model"),  # a list is given by repeating its singular
        ("api_keys", "--api-key"),
        ("cors_origins", "--cors-origin"),
    ],
)
def test_flags_are_named_like_their_settings(setting: str, flag: str) -> None:
    assert serve.flag_name(setting) == flag


def test_the_help_shows_ranges_and_defaults() -> None:
    shown = CliRunner().invoke(build_app(), ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    for text in ("--port", "(0 to 65535)", "Default: 8000", "--no-prefix-cache", "Default: on"):
        assert text in shown
    assert "auto|cpu|cuda" in shown


def test_flags_win_over_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path("mine.toml")
    config.write_text("port = 1\nmax_n = 2\nthreads = 3\n")
    monkeypatch.setenv("SHOAL_PORT", "11")
    monkeypatch.setenv("SHOAL_MAX_N", "12")
    settings = settings_of(config, port="21")
    assert (settings.port, settings.max_n, settings.threads) == (21, 12, 3)


def test_the_same_list_can_come_from_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("shoal.toml").write_text('models = ["a", "b"]\n')
    assert settings_of().models == ["a", "b"]
    monkeypatch.setenv("SHOAL_MODELS", "c, d")
    assert settings_of().models == ["c", "d"]
    assert settings_of(models=["e"]).models == ["e"]


def messages(capsys: pytest.CaptureFixture[str], config: Path | None = None, **flags: Any) -> str:
    with pytest.raises(typer.Exit) as ended:
        settings_of(config, **flags)
    assert ended.value.exit_code == 2
    return capsys.readouterr().err


def test_each_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = messages(capsys, port="99999", device="tpu").splitlines()
    assert first.startswith("shoal: --port: ")
    assert "65535" in first
    assert "'99999'" in first
    assert second.startswith("shoal: --device: ")
    assert "'cpu'" in second


def test_a_wrong_value_from_elsewhere_names_the_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_MAX_N", "many")
    assert "max_n (file or SHOAL_MAX_N): " in messages(capsys)


def test_an_unknown_setting_in_the_file_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("shoal.toml").write_text("max_bach_size = 3\n")
    assert "'max_bach_size' is not known; did you mean max_batch_size?" in messages(capsys)


def test_a_file_that_is_no_toml_and_one_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.toml").write_text("port 8000")
    assert "bad.toml: " in messages(capsys, Path("bad.toml"))
    assert "none.toml does not exist" in messages(capsys, Path("none.toml"))


def test_an_open_door_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "allow_unauthenticated" in messages(capsys, host="0.0.0.0")


def test_keys_are_never_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sk-secret" not in messages(capsys, api_keys=["sk-secret"], port="x", host="0.0.0.0")
    assert "sk-secret" not in messages(capsys, api_keys=5.5, host="sk-host")


def test_flags_reach_the_server_and_its_exit_code_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shoal.server.serve as server

    seen: list[Settings] = []
    monkeypatch.setattr(server, "run", lambda settings, listener: seen.append(settings) or 3)
    flags = ["--port", "0", "--model", "a", "--model", "b=c", "--no-docs", "--kernels", "torch"]
    result = CliRunner().invoke(build_app(), ["serve", *flags])
    assert result.exit_code == 3
    (settings,) = seen
    assert (settings.port, settings.models, settings.docs) == (0, ["a", "b=c"], False)
    assert settings.kernels == "torch"


def test_paths_are_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import shoal.server.serve as server

    seen: list[Settings] = []
    monkeypatch.setattr(server, "run", lambda settings, listener: seen.append(settings) or 0)
    CliRunner().invoke(build_app(), ["serve", "x", "a,b=y/z=1", "--model", "m", "--port", "0"])
    assert [settings.models for settings in seen] == [["x", "a,b=y/z=1", "m"]]


@pytest.mark.parametrize(
    ("flag", "variable"), [("--api-key", "SHOAL_API_KEYS"), ("--admin-key", "SHOAL_ADMIN_KEYS")]
)
def test_keys_are_no_flags(flag: str, variable: str) -> None:
    result = CliRunner().invoke(build_app(), ["serve", flag, "sk-secret", "--port", "0"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"shoal: {flag}: ")
    assert variable in result.stderr
    assert "sk-secret" not in result.output
    shown = CliRunner().invoke(build_app(), ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    assert flag not in shown
    assert variable.removeprefix("SHOAL_").lower() in shown


def test_a_missing_model_folder_is_one_plain_line() -> None:
    result = CliRunner().invoke(build_app(), ["serve", "--port", "0", "--model", "nowhere"])
    assert result.exit_code == 2
    assert result.stderr.startswith("shoal: nowhere does not exist: give a folder with")
    assert result.stderr.count("\n") == 1
