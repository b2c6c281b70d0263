"""A LoRA adapter (Hu et al., 2021) in a folder as the `peft` library writes it: adapter_config.json
and adapter_model.safetensors.

Every value of the config is used, known to change nothing, or refused by name. Which network the
matrices belong to is not known here: a module goes by its name in the base.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shoal.checkpoint.fields import Fields
from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.hf import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from shoal.checkpoint.lock import LOCK_FILE, file_sha256, verify_lock
from shoal.checkpoint.read import read_json, read_text, where
from shoal.checkpoint.safetensors import read_safetensors
from shoal.errors import ModelFolderError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
MAX_RANK = 1024
MAX_PATTERN_CHARS = 1000

_PREFIX = "base_model.model."
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to start training that leave the base as it was; others (PiSSA, OLoRA, ...) change it."""
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout",
        "runtime_config", "megatron_core", "qalora_group_size", "eva_config", "corda_config",
        "lora_ga_config", "loftq_config", "fan_in_fan_out", "ensure_weight_tying",
    }
)  # fmt: skip
"""Training, what wrote the file, how the base lies in memory, options of what is refused."""


class LowRank(NamedTuple):
    """The two matrices of one module: its output grows by scale * B A x."""

    a: StoredTensor
    """[rank, in]"""
    b: StoredTensor
    """[out, rank]"""
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What adapter_config.json says of which modules are adapted and how."""

    base_model: str | None
    """`base_model_name_or_path`: a name or path where it was trained."""
    rank: int
    alpha: float
    rank_scaled: bool
    """Rank-stabilized (Kalajdzievski, 2023): the scale is alpha / sqrt(rank), not alpha / rank."""
    target_modules: str | tuple[str, ...]
    """A regular expression of whole module names, "all-linear", or ends of names."""
    exclude_modules: str | tuple[str, ...]
    layers: tuple[int, ...]
    """Only these; empty = all."""
    layers_pattern: tuple[str, ...]
    """What the list of layers is called; empty = anything."""
    rank_pattern: Mapping[str, int]
    """End of a module's name, as a regular expression -> its own rank."""
    alpha_pattern: Mapping[str, float]

    def targets(self, module: str) -> bool:
        """Is the linear module of this name adapted?"""
        if _matches(self.exclude_modules, module):
            return False
        if self.target_modules == ALL_LINEAR:
            return True
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, module) is not None
        return _matches(self.target_modules, module) and self._is_in_layers(module)

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern_of(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        alpha = self.alpha_pattern.get(_pattern_of(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return float(alpha / (rank**0.5 if self.rank_scaled else rank))

    def _is_in_layers(self, module: str) -> bool:
        if not self.layers:
            return True
        for pattern in self.layers_pattern or (r"[^.]*",):
            if found := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
                return int(found[1]) in self.layers
        return False


class AdapterFolder:
    """One adapter's files, each read when asked for. Raises ModelFolderError that names the file,
    the key and what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    @property
    def created(self) -> int:
        """Unix time of the config."""
        try:
            return int((self.path / CONFIG).stat().st_mtime)
        except OSError as error:
            raise ModelFolderError(f"{where(self.path / CONFIG)} cannot be read") from error

    @property
    def digest(self) -> str:
        """16 hex digits of both files."""
        hashes = file_sha256(self.path / CONFIG) + file_sha256(self.path / WEIGHTS)
        return hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def unused_files(self, base: Path) -> list[str]:
        """Tokenizer files that differ from those of its base, whose are used."""
        found = []
        for name in (TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE):
            own, other = self.path / name, base / name
            if own.is_file() and not (other.is_file() and read_text(own) == read_text(other)):
                found.append(name)
        return found

    def config(self) -> AdapterConfig:
        """Raises ModelFolderError also for a folder that is no adapter."""
        path = self.path / CONFIG
        if not path.is_file():
            raise ModelFolderError(
                f"{self.path} is no adapter: give a folder with {CONFIG} and {WEIGHTS}"
            )
        return read_config(read_json(path), where(path))

    def modules(self) -> dict[str, LowRank]:
        """Module of the base, by its name there -> its matrices. Shapes agree with the ranks of
        the config, the file has no other tensors, and both files are those of the lock, where
        there is one."""
        if (self.path / LOCK_FILE).is_file():
            verify_lock(self.path, [self.path / CONFIG, self.path / WEIGHTS])
        config = self.config()
        sides = self._sides()
        modules: dict[str, LowRank] = {}
        for module, pair in sides.items():
            if len(pair) < 2:
                missing = "A" if "B" in pair else "B"
                raise ModelFolderError(f"{self.where}: {module} has no lora_{missing}.weight")
            a, b, rank = pair["A"], pair["B"], config.rank_of(module)
            if len(a.shape) != 2 or len(b.shape) != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
                raise ModelFolderError(
                    f"{self.where}: lora_A {list(a.shape)} and lora_B {list(b.shape)} of {module} "
                    f"do not have the rank {rank} that {CONFIG} says"
                )
            modules[module] = LowRank(a, b, config.scale_of(module))
        return modules

    @property
    def where(self) -> str:
        """Folder and weights file, for errors."""
        return where(self.path / WEIGHTS)

    def _sides(self) -> dict[str, dict[str, StoredTensor]]:
        """Module -> "A" or "B" -> tensor."""
        path = self.path / WEIGHTS
        if not path.is_file():
            others = [name.name for name in sorted(self.path.glob("adapter_model*"))]
            found = f", only {others[0]}: save it as safetensors" if others else ""
            raise ModelFolderError(f"{self.name} has no {WEIGHTS}{found}")
        sides: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in read_safetensors(path).items():
            match = _TENSOR.fullmatch(name)
            if match is None:
                raise ModelFolderError(
                    f"{self.where}: {name[:200]} is no matrix of a LoRA adapter of linear layers, "
                    "all that Shoal reads: merge such an adapter into its base with peft, "
                    "merge_and_unload() and save_pretrained(folder)"
                )
            sides.setdefault(match["module"], {})[match["side"]] = tensor
        if not sides:
            raise ModelFolderError(f"{self.where} has no tensors")
        return sides


def read_config(values: Mapping[str, Any], file: str) -> AdapterConfig:
    """`file`: for errors. Raises ModelFolderError."""
    fields = Fields(values, file)
    fields.require(fields.get("peft_type") == "LORA", "peft_type", "be LORA, all that Shoal reads")
    is_decoder = fields.get("task_type") in (None, "CAUSAL_LM")
    fields.require(is_decoder, "task_type", "be CAUSAL_LM")
    fields.require(fields.get("bias") in (None, "none"), "bias", "be none: Shoal adapts no biases")
    initial = fields.get("init_lora_weights")
    is_plain = any(initial is value or initial == value for value in _INITIAL)
    fields.require(
        is_plain,
        "init_lora_weights",
        "be true, false, gaussian, orthogonal or eva, since others change the base: convert the "
        "adapter with peft, save_pretrained(path_initial_model_for_weight_conversion=...)",
    )
    base = fields.get("base_model_name_or_path")
    is_name = base is None or isinstance(base, str)
    fields.require(is_name, "base_model_name_or_path", "be a text")
    rank = fields.size("r", 8)
    fields.require(rank <= MAX_RANK, "r", f"be at most {MAX_RANK}")
    config = AdapterConfig(
        base_model=base or None,
        rank=rank,
        alpha=fields.number("lora_alpha", 8),
        rank_scaled=fields.flag("use_rslora", False),
        target_modules=_names(fields, "target_modules"),
        exclude_modules=_names(fields, "exclude_modules"),
        layers=_layers(fields),
        layers_pattern=_layers_pattern(fields),
        rank_pattern={key: int(value) for key, value in _patterns(fields, "rank_pattern", int)},
        alpha_pattern={
            key: float(value) for key, value in _patterns(fields, "alpha_pattern", float)
        },
    )
    fields.require(bool(config.target_modules), "target_modules", "name the adapted modules")
    for key, value in fields.unread().items():
        if key not in _WITHOUT_EFFECT and value not in (False, "", [], {}):
            fields.refuse(
                key,
                "be left out, for Shoal does not know it: merge the adapter into its base with "
                "peft, merge_and_unload() and save_pretrained(folder)",
            )
    return config


def _matches(names: str | tuple[str, ...], module: str) -> bool:
    """A text is a regular expression of the whole name; of a list each is the name or its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern_of(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the end of the module's name, else the name."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def _names(fields: Fields, name: str) -> str | tuple[str, ...]:
    value = fields.get(name)
    if isinstance(value, str):
        _check_pattern(fields, name, value)
        return value
    is_list = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    fields.require(value is None or is_list, name, "be a text or a list of names")
    return tuple(value or ())


def _layers(fields: Fields) -> tuple[int, ...]:
    value = fields.get("layers_to_transform")
    layers = [value] if isinstance(value, int) else value or []
    is_list = isinstance(layers, list) and all(type(layer) is int for layer in layers)
    fields.require(is_list, "layers_to_transform", "be a whole number or a list of them")
    is_pattern = isinstance(fields.get("target_modules"), str)
    fields.require(
        not (layers and is_pattern), "layers_to_transform", "be left out where a pattern targets"
    )
    return tuple(layers)


def _layers_pattern(fields: Fields) -> tuple[str, ...]:
    names = _names(fields, "layers_pattern")
    patterns = (names,) if isinstance(names, str) and names else tuple(names)
    for pattern in patterns:
        _check_pattern(fields, "layers_pattern", pattern)
    return patterns


def _patterns(fields: Fields, name: str, kind: type) -> list[tuple[str, float]]:
    value = fields.get(name) or {}
    fields.require(isinstance(value, dict), name, "be an object")
    rule = "have positive whole numbers" if kind is int else "have positive numbers"
    found: list[tuple[str, float]] = []
    for pattern, number in value.items():
        _check_pattern(fields, name, pattern)
        is_kind = type(number) is int or (kind is float and type(number) is float)
        limit = MAX_RANK if kind is int else 1e12
        fields.require(is_kind and 0 < number <= limit, name, rule)
        found.append((pattern, number))
    return found


def _check_pattern(fields: Fields, name: str, pattern: str) -> None:
    fields.require(len(pattern) <= MAX_PATTERN_CHARS, name, "be shorter")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        fields.refuse(name, "be a regular expression")
