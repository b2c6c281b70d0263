"""Which models the settings name; one bad folder among searched ones stops no other."""

import json
from pathlib import Path

import pytest

from shoal.checkpoint.catalogue import beside_code, models_folders, read_catalogue
from shoal.checkpoint.find import ModelSelection, find_models, parse_model
from shoal.commands.local_models import local_names, why_unknown
from shoal.errors import ConfigError, ModelFolderError
from shoal.protocol.messages import ModelSource


def model_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def bad_folder(parent: Path, name: str) -> Path:
    folder = model_folder(parent, name)
    (folder / "config.json").rename(folder / "adapter_config.json")
    return folder


def named(*models: str, default_model: str | None = None) -> ModelSelection:
    return find_models(models, None, default_model)


def searched(folder: Path, default_model: str | None = None) -> ModelSelection:
    return find_models((), folder, default_model)


# --- named ---------------------------------------------------------------------------------------


def test_named_folders_are_taken_in_order_and_may_get_names(tmp_path: Path) -> None:
    b, a = model_folder(tmp_path, "b"), model_folder(tmp_path, "a")
    selection = named(str(b), f"other={a}")
    assert selection.sources == (ModelSource("b", str(b)), ModelSource("other", str(a)))
    assert not any(source.may_fail for source in selection.sources)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    a, b = model_folder(tmp_path / "x", "m"), model_folder(tmp_path / "y", "m")
    with pytest.raises(ConfigError, match="two models are named m"):
        named(str(a), str(b))


def test_a_bad_folder_that_is_named_ends_the_start(tmp_path: Path) -> None:
    good, bad = model_folder(tmp_path, "good"), bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        named(str(good), str(bad))


def test_a_default_model_must_be_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="default_model x is none of a"):
        named(str(model_folder(tmp_path, "a")), default_model="x")


def test_a_path_may_hold_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "lr=0.1", "small")
    assert named(str(folder)).sources == (ModelSource("small", str(folder)),)
    assert named(f"m={folder}").sources == (ModelSource("m", str(folder)),)
    assert named(f"org/m={folder}").sources == (ModelSource("org/m", str(folder)),)
    monkeypatch.chdir(tmp_path)
    assert named("lr=0.1/small").sources == (ModelSource("small", "lr=0.1/small"),)
    with pytest.raises(ConfigError, match=r"/lr=0\.1/gone does not exist"):
        named(f"{tmp_path}/lr=0.1/gone")


def test_a_model_may_have_several_names(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "a")
    (source,) = named(f"chat,org/chat:2,gpt-4={folder}").sources
    assert source == ModelSource("chat", str(folder), aliases=("org/chat:2", "gpt-4"))
    assert named(f"x,y={folder}", default_model="y").sources[0].aliases == ("y",)
    with pytest.raises(ConfigError, match="two models are named b"):
        named(f"x,b={folder}", str(model_folder(tmp_path, "b")))


@pytest.mark.parametrize(
    ("entry", "name", "path", "aliases"),
    [
        ("a=b", "a", "b", ()),
        ("a=b=c", "a", "b=c", ()),
        ("a,b=c,d", "a", "c,d", ("b",)),
        ("a,=b", "a,=b", "a,=b", ()),
        ("=b", "=b", "=b", ()),
        ("./a=b", "a=b", "./a=b", ()),
        ("~a=b", "~a=b", "~a=b", ()),
        ("a b=c", "a b=c", "a b=c", ()),
        ("models/x.gguf", "x", "models/x.gguf", ()),
        ("m=/x.gguf", "m", "/x.gguf", ()),
    ],
)
def test_where_a_name_ends_and_a_path_begins(
    entry: str, name: str, path: str, aliases: tuple[str, ...], tmp_path: Path
) -> None:
    parsed = parse_model(entry, tmp_path)
    assert (parsed.name, Path(parsed.path), parsed.aliases) == (name, Path(path), aliases)


def test_what_exists_as_a_whole_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_model("a,b=c").aliases == ("b",)
    model_folder(tmp_path, "a,b=c")
    assert parse_model("a,b=c") == ModelSource("a,b=c", "a,b=c")
    assert parse_model("x" * 5000).path == "x" * 5000  # too long for a file name


def test_a_name_alone_is_looked_for_in_models_dir(tmp_path: Path) -> None:
    model_folder(tmp_path, "a")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    assert parse_model("a", tmp_path) == ModelSource("a", str(tmp_path / "a"))
    assert parse_model("b", tmp_path) == ModelSource("b", str(tmp_path / "b.gguf"))
    assert parse_model("x,y=b", tmp_path) == ModelSource(
        "x", str(tmp_path / "b.gguf"), aliases=("y",)
    )
    with pytest.raises(ConfigError, match="gone does not exist"):
        find_models(["gone"], tmp_path, None)


# --- the catalogue -------------------------------------------------------------------------------


def write_catalogue(folder: Path, *names: str, **changes: object) -> None:
    """A change to ... takes the key out."""
    values = {
        "description": "x",
        "package": "p",
        "version": "1",
        "wheel_sha256": "0" * 64,
        "wheel_bytes": 93_000_000,
        "file": "p/m.gguf",
        "file_sha256": "f" * 64,
        "file_bytes": 5,
        "licence": "MIT",
    } | changes
    lines = [f"{key} = {toml(value)}" for key, value in values.items() if value is not ...]
    text = "\n".join("\n".join((f"[{name}]", *lines)) for name in names)
    (folder / "catalogue.toml").write_text(text)


def toml(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"


def test_models_of_the_catalogue_come_first_and_those_that_are_not_there_are_named(
    tmp_path: Path,
) -> None:
    for name in ("a", "z"):
        model_folder(tmp_path, name)
    write_catalogue(tmp_path, "z", "other")
    selection = searched(tmp_path)
    assert [source.name for source in selection.sources] == ["z", "a"]
    assert selection.absent == {"other": "not here: `shoal pull other` fetches it (93 MB)"}
    with pytest.raises(ConfigError, match=r"other is none of z, a \(not here: `shoal pull other`"):
        searched(tmp_path, "other")
    with pytest.raises(ConfigError, match="model other is not here: `shoal pull other` fetches"):
        find_models(["other"], tmp_path, None)
    assert find_models(["a"], tmp_path, None).absent == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "../x.gguf"}, "path of a GGUF file"),
        ({"file": "/x.gguf"}, "path of a GGUF file"),
        ({"file": "p/run.py"}, "path of a GGUF file"),
        ({"file": "p/.m.gguf"}, "path of a GGUF file"),
        ({"file_sha256": "F" * 64}, "SHA-256 of 64 hex digits"),
        ({"wheel_bytes": "many"}, "wheel_bytes of .* must be of type int"),
        ({"wheel_bytes": 0}, "positive"),
        ({"index": "x"}, "exactly the keys"),
    ],
)
def test_a_catalogue_is_checked(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    model_folder(tmp_path, "a")
    write_catalogue(tmp_path, "m", **changes)
    with pytest.raises(ConfigError, match=words):
        searched(tmp_path)


def test_the_catalogue_of_the_repository_is_read(tmp_path: Path) -> None:
    entries = read_catalogue(beside_code())
    assert {name: entry.licence for name, entry in entries.items()} == {
        "smollm2": "Apache-2.0",
        "minilm": "Apache-2.0",
    }
    assert entries["smollm2"].path_in(tmp_path) == tmp_path / "smollm2.gguf"
    assert entries["minilm"].path_in(tmp_path) == tmp_path / "minilm"
    assert {"config.json", "model.safetensors", "1_Pooling/config.json"} <= {
        file.name for file in entries["minilm"].files
    }


SOME_FILE: dict[str, object] = {"sha256": "f" * 64, "bytes": 5}
SEVERAL: dict[str, object] = {
    **dict.fromkeys(("file", "file_sha256", "file_bytes"), ...),
    "files_in": "p/model",
    "files": {"config.json": SOME_FILE, "a/config.json": SOME_FILE},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files_in": "../p"}, "files_in of .* must be a folder in the wheel"),
        ({"files": {}}, "files_in of .* must be a folder in the wheel with files"),
        ({"files": {"run.py": SOME_FILE}}, r"must be paths of \.json, \.safetensors, \.md"),
        ({"files": {"../config.json": SOME_FILE}}, "must be paths of"),
        ({"files": {"a.json": SOME_FILE | {"bytes": 0}}}, "positive"),
        ({"files": {"a.json": SOME_FILE | {"sha256": "0"}}}, "SHA-256 of 64 hex digits"),
        ({"files": {"a.json": 5}}, "must have exactly the keys sha256, bytes"),
    ],
)
def test_an_entry_of_several_files_is_checked(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    model_folder(tmp_path, "a")
    write_catalogue(tmp_path, "m", **SEVERAL)
    assert searched(tmp_path).absent.keys() == {"m"}
    write_catalogue(tmp_path, "m", **SEVERAL | changes)
    with pytest.raises(ConfigError, match=words):
        searched(tmp_path)


# --- searched ------------------------------------------------------------------------------------


def test_every_model_of_models_dir_is_taken_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        model_folder(tmp_path, name)
    (tmp_path / "recipes" / "a").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("x")
    selection = searched(tmp_path)
    assert [source.name for source in selection.sources] == ["a", "b"]
    assert all(source.may_fail for source in selection.sources)
    assert selection.failed == {}


def test_a_bad_one_among_them_is_told_and_stops_no_other(tmp_path: Path) -> None:
    model_folder(tmp_path, "good")
    bad_folder(tmp_path, "bad")
    (tmp_path / "large.gguf").write_bytes(b"GG")
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    selection = searched(tmp_path)
    assert [source.name for source in selection.sources] == ["good", "small"]
    assert "bad is an adapter" in selection.failed["bad"]
    assert "large.gguf does not begin as a GGUF file does" in selection.failed["large"]


def test_a_gguf_file_is_named_without_its_ending(tmp_path: Path) -> None:
    (tmp_path / "small-1.5.gguf").write_bytes(b"GGUF")
    path = str(tmp_path / "small-1.5.gguf")
    assert named(path, f"other={path}").sources == (
        ModelSource("small-1.5", path),
        ModelSource("other", path),
    )


def test_when_all_are_bad_the_start_ends_with_a_reason(tmp_path: Path) -> None:
    bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        searched(tmp_path)


def test_the_default_model_must_load(tmp_path: Path) -> None:
    model_folder(tmp_path, "good")
    bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        searched(tmp_path, "bad")
    (source,) = searched(tmp_path, "good").sources
    assert not source.may_fail


def test_a_folder_of_no_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model found"):
        searched(tmp_path)


def test_a_models_dir_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models_dir"):
        searched(tmp_path / "nowhere")


# --- ./models, and the folder beside Shoal -------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder beside Shoal; the test is in another place."""
    folder = tmp_path / "shoal" / "models"
    for name in ("b", "both"):
        model_folder(folder, name)
    monkeypatch.setattr("shoal.checkpoint.catalogue.beside_code", lambda: folder)
    monkeypatch.setattr("shoal.checkpoint.find.beside_code", lambda: folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_what_was_pulled_is_found_whether_there_is_a_models_folder_here_or_not(
    beside: Path,
) -> None:
    assert named("b").sources == (ModelSource("b", str(beside / "b")),)
    model_folder(Path("models"), "a")
    assert named("b", "a").sources == (
        ModelSource("b", str(beside / "b")),
        ModelSource("a", "models/a"),
    )


def test_all_of_both_folders_are_served_and_of_one_name_the_one_here(beside: Path) -> None:
    for name in ("both", "z"):
        model_folder(Path("models"), name)
    expected = {"both": "models/both", "z": "models/z", "b": str(beside / "b")}
    found = find_models((), None, None).sources
    assert [(source.name, source.path) for source in found] == list(expected.items())
    assert parse_model("both").path == "models/both"
    assert local_names(None) == ["b", "both", "z"]
    write_catalogue(beside, "b", "other")
    selection = find_models((), None, None)
    assert [source.name for source in selection.sources] == ["b", "both", "z"]
    assert list(selection.absent) == ["other"]
    reason = why_unknown("zz", None)
    assert reason is not None
    assert f"there is b, both, z in models and {beside}; `shoal pull other`" in reason


def test_a_folder_that_is_named_is_the_only_one(beside: Path, tmp_path: Path) -> None:
    model_folder(Path("models"), "a")
    own = model_folder(tmp_path / "own", "o")
    assert [source.name for source in searched(own.parent).sources] == ["o"]
    with pytest.raises(ConfigError, match="b does not exist"):
        find_models(["b"], own.parent, None)


def test_in_the_folder_of_shoal_itself_there_is_one(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(beside.parent)
    assert models_folders(None) == [Path("models")]
    assert [source.path for source in find_models((), None, None).sources] == [
        "models/b",
        "models/both",
    ]


def test_a_base_is_found_in_either(beside: Path) -> None:
    pytest.importorskip("torch")
    from shoal.train.finetune.prepare import find_base
    from shoal.train.finetune.settings import FineTuneRequest

    model_folder(Path("models"), "a")
    for name, path in (("a", Path("models/a")), ("b", beside / "b")):
        request = FineTuneRequest(out=Path("models/x"), data=Path("rows"), base=Path(name))
        assert find_base(request) == path
