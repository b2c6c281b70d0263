"""How a sequence's vector is made, as the sentence-transformers library writes it beside a network:
modules.json lists the steps, each with a config of its own.

Read are a Transformer, one way of pooling, and Normalize. Every other step or setting that would
change a vector is refused by name; what has no effect here is named in a remark.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shoal.checkpoint.fields import Fields
from shoal.checkpoint.files import EmbeddingFiles, Pooling
from shoal.checkpoint.read import read_json, read_text, strict_json, where
from shoal.errors import ModelFolderError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_MODULE_CONFIG = "config.json"
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The first that is there holds."""
_MODES: dict[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}
_OLDER_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""Flag of a pooling config -> what newer ones say in a word."""
_KNOWN = f"Shoal pools by {', '.join(_MODES)}"


class _Module(NamedTuple):
    """A step of modules.json."""

    kind: str
    path: str


def read_sentence_files(folder: Path) -> EmbeddingFiles | None:
    """None where the folder has no modules.json. Raises ModelFolderError."""
    if not (folder / MODULES).is_file():
        return None
    modules = _read_modules(folder / MODULES)
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelFolderError(
            f"{where(folder / MODULES)} lists {', '.join(kinds) or 'nothing'}: Shoal makes vectors "
            "by Transformer and Pooling, and Normalize behind them or not"
        )
    transformer, pooling = modules[0], modules[1]
    if transformer.path:
        raise ModelFolderError(
            f"{where(folder / MODULES)}: the network lies in {transformer.path[:80]}: move its "
            'files up into the folder and make its path ""'
        )
    remarks: list[str] = []
    max_tokens = _read_transformer(folder, remarks)
    path = _config_of(folder, pooling)
    config = Fields(read_json(path), where(path))
    kind, size = _read_pooling(config), _read_size(config)
    _name_unused(config, path, remarks)
    return EmbeddingFiles(
        pooling=kind,
        normalized=len(modules) == 3,
        where=where(path),
        size=size,
        max_tokens=max_tokens,
        remarks=(*remarks, *_read_settings(folder)),
    )


def sentence_files(folder: Path) -> list[Path]:
    """Those of a folder that `read_sentence_files` reads."""
    if not (folder / MODULES).is_file():
        return []
    names = (MODULES, SETTINGS, *_TRANSFORMER_CONFIGS)
    found = [path for name in names if (path := folder / name).is_file()]
    pooling = [each for each in _read_modules(folder / MODULES) if each.kind == "Pooling"]
    return found + [_config_of(folder, each) for each in pooling]


def _read_modules(path: Path) -> list[_Module]:
    """In the order of the steps. `type` is a Python class: its last name tells the step."""
    try:
        entries = strict_json(read_text(path, 1 << 20))
        modules = [_Module(str(e["type"]).rpartition(".")[2], e["path"]) for e in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad_modules(path) from error
    if not all(isinstance(module.path, str) for module in modules):
        raise _bad_modules(path)
    return modules


def _bad_modules(path: Path) -> ModelFolderError:
    return ModelFolderError(f"{where(path)} must be a list of objects with type and path")


def _config_of(folder: Path, module: _Module) -> Path:
    """The config of a step, which lies in a folder of its own."""
    if Path(module.path).name != module.path or module.path in ("", ".", ".."):
        raise ModelFolderError(f"{where(folder / MODULES)} names a folder outside the model's")
    return folder / module.path / _MODULE_CONFIG


def _read_transformer(folder: Path, remarks: list[str]) -> int | None:
    """The longest sequence; None where nothing bounds it."""
    path = next((p for name in _TRANSFORMER_CONFIGS if (p := folder / name).is_file()), None)
    if path is None:
        return None
    config = Fields(read_json(path), where(path))
    lowers = config.flag("do_lower_case", False)
    rule = "be false: Shoal leaves the case of a text to the tokenizer"
    config.require(not lowers, "do_lower_case", rule)
    longest = None if config.get("max_seq_length") is None else config.size("max_seq_length")
    _name_unused(config, path, remarks)
    return longest


def _read_pooling(config: Fields) -> Pooling:
    modes = [mode for key, mode in _OLDER_MODES.items() if config.flag(key, False)]
    if (said := config.get("pooling_mode")) is not None:
        modes = said if isinstance(said, list) else [said]
    key = "pooling_mode" if said is not None else _key_of(modes)
    config.require(len(modes) == 1, key, f"be one way of pooling: {_KNOWN}")
    is_known = isinstance(modes[0], str) and modes[0] in _MODES
    config.require(is_known, key, f"be left out or false: {_KNOWN}")
    config.flag("include_prompt", True)  # prompts are not put in front of a text
    return _MODES[modes[0]]


def _key_of(modes: list[str]) -> str:
    """The flag that an error is about: the first that cannot be computed, else the last one set."""
    keys = {mode: key for key, mode in _OLDER_MODES.items()}
    wrong = [mode for mode in modes if mode not in _MODES]
    return keys[(wrong or modes or ["mean"])[-1]]


def _read_size(config: Fields) -> int | None:
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if config.get(key) is not None:
            return config.size(key)
    return None


def _read_settings(folder: Path) -> Iterator[str]:
    """Remarks on what the library would do with a text and Shoal leaves to the caller."""
    path = folder / SETTINGS
    if not path.is_file():
        return
    config = Fields(read_json(path), where(path))
    kind = config.get("model_type")
    is_plain = kind in (None, "SentenceTransformer")
    config.require(is_plain, "model_type", "be SentenceTransformer")
    for key in ("__version__", "similarity_fn_name"):  # who wrote it, and how vectors are compared
        config.get(key)
    prompts, first = config.get("prompts") or {}, config.get("default_prompt_name")
    config.require(isinstance(prompts, dict), "prompts", "be an object")
    if names := [name[:40] for name, text in prompts.items() if text]:
        always = "" if first is None else f"; {str(first)[:40]} in front of every text"
        yield (
            f"{where(path)} names prompts ({', '.join(names)}{always}), which are not put in front "
            "of texts: callers do that"
        )
    remarks: list[str] = []
    _name_unused(config, path, remarks)
    yield from remarks


def _name_unused(config: Fields, path: Path, remarks: list[str]) -> None:
    if unused := config.unread():
        names = ", ".join(key[:60] for key in unused)
        remarks.append(f"keys of {where(path)} that are not used: {names}")
