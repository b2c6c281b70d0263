"""What a model's own files say about generating: sampling defaults, end ids, the start id.

Values are held to the limits of a request, for they go into every request that does not say
otherwise. What the files ask for and Shoal does not offer is named, never silently left out.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shoal.checkpoint.fields import Fields
from shoal.checkpoint.files import ModelFiles
from shoal.text.tokenizer import Tokenizer


class Limits(NamedTuple):
    """The numbers a sampling setting may be; `server/api/generation/fields.py` has the same."""

    low: float
    high: float
    includes_low: bool = True
    is_whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} {'from' if self.includes_low else 'above'} {self.low:g} to {self.high:g}"

    def allow(self, value: object) -> bool:
        """NaN is outside of every range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = value >= self.low if self.includes_low else value > self.low
        return above and value <= self.high and (not self.is_whole or value == int(value))


SAMPLING_LIMITS = {
    "temperature": Limits(0, 2),
    "top_k": Limits(-1, 2**31 - 1, is_whole=True),
    "top_p": Limits(0, 1),
    "min_p": Limits(0, 1),
    "typical_p": Limits(0, 1, includes_low=False),
    "repetition_penalty": Limits(0, 10, includes_low=False),
}

_NO_VOCABULARY = 1 << 24
"""No tokenizer has so many ids."""

_NOT_OFFERED: dict[str, Collection[Any]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "guidance_scale": (1,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "token_healing": (False,),
    "watermarking_config": (),
    "stop_strings": ([],),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "num_return_sequences": (1,),
    "custom_generate": (),
}
"""Settings that change the output, with the values that ask for nothing (null always does)."""

_WITHOUT_EFFECT = frozenset({
    # read here
    *SAMPLING_LIMITS, "do_sample", "eos_token_id", "bos_token_id", "pad_token_id",
    # only of beam search or of encoder-decoders, which are reported by other names
    "length_penalty", "early_stopping", "low_memory", "decoder_start_token_id",
    # how it is computed or returned, not what
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache",
    "compile_config", "disable_compile", "prefill_chunk_size", "continuous_batching_config",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "renormalize_logits", "remove_invalid_values",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp",
    # how long an answer may be is said by the request, or by its documented default
    "max_length", "max_new_tokens",
    # about the file
    "transformers_version", "trust_remote_code", "_from_model_config", "_commit_hash",
    "_original_object_hash", "chat_format",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Checked, and within the tokenizer's ids."""

    sampling: dict[str, float]
    end_token_ids: tuple[int, ...]
    start_token_id: int | None
    """What an empty prompt starts from: BOS, else EOS, else nothing."""
    remarks: tuple[str, ...]
    """What was left out and why, for the operator."""


def read_defaults(files: ModelFiles, tokenizer: Tokenizer) -> ModelDefaults:
    """Raises ModelFolderError for a value that no request may have, naming file and key."""
    generation = files.generation_config
    where = files.generation_config_file
    remarks: list[str] = []
    if not generation:  # older folders keep these settings in the config, as transformers knows
        where = files.config_file
        known = SAMPLING_LIMITS.keys() | _NOT_OFFERED.keys() | {"do_sample"}
        generation = {key: value for key, value in files.config.items() if key in known}
    sampling = _sampling(generation, where)
    if ignored := list(_not_offered(generation)):
        remarks.append(
            f"{where} asks for what Shoal does not offer; left out: {', '.join(ignored)}"
        )
    end_ids = _named_ids(files, tokenizer, "eos_token", remarks)
    start_ids = _named_ids(files, tokenizer, "bos_token", remarks)
    if not end_ids:
        remarks.append(
            f"{files.name} names no end token: text that it writes ends at max_tokens or a stop "
            "string only"
        )
    return ModelDefaults(
        sampling=sampling,
        end_token_ids=end_ids,
        start_token_id=next(iter((*start_ids, *end_ids)), None),
        remarks=tuple(remarks),
    )


def _sampling(generation: Mapping[str, Any], where: str) -> dict[str, float]:
    fields = Fields(generation, where)
    defaults = {}
    for name, limits in SAMPLING_LIMITS.items():
        if (value := generation.get(name)) is not None:
            fields.require(limits.allow(value), name, f"be {limits}")
            defaults[name] = int(value) if limits.is_whole else value
    if generation.get("do_sample") is not None and not fields.flag("do_sample", True):
        defaults["temperature"] = 0.0  # penalties stay: they also act on the best token
    return defaults


def _not_offered(generation: Mapping[str, Any]) -> Iterator[str]:
    for name, value in generation.items():
        if name in _WITHOUT_EFFECT or value is None:
            continue
        if not any(value == neutral for neutral in _NOT_OFFERED.get(name, ())):
            yield name[:40]


def _named_ids(
    files: ModelFiles, tokenizer: Tokenizer, token: str, remarks: list[str]
) -> tuple[int, ...]:
    """All ids that the files give a token, the tokenizer's own first. A config may hold ids that
    its class has by default and this model does not have: those can never be sampled. Raises
    ModelFolderError where somebody chose such an id."""
    key = f"{token}_id"
    num_ids = tokenizer.vocab_size
    ids: list[tuple[int, str]] = []
    is_chosen = (
        files.generation_config_file != files.config_file  # a single file's metadata is its config
        and not files.generation_config.get("_from_model_config")
    )
    for settings, where, refuses in (
        (
            files.generation_config,
            files.generation_config_file,
            is_chosen,
        ),
        (files.config, files.config_file, False),
    ):
        fields = Fields(settings, where)
        found = _ids(fields, key)
        most = num_ids if refuses else _NO_VOCABULARY
        fields.require(
            all(-1 <= value < most for value in found),
            key,
            f"be of the tokenizer's {num_ids} ids (-1: none), or be left out",
        )
        ids += [(value, where) for value in found]
    beyond = {f"{value} ({where})" for value, where in ids if not 0 <= value < num_ids}
    if beyond:
        remarks.append(
            f"{key} {', '.join(sorted(beyond))} is beyond the tokenizer's {num_ids} ids; left out"
        )
    inside = (value for value, _ in ids if 0 <= value < num_ids)
    return tuple(dict.fromkeys((*_tokenizers_id(files, tokenizer, token), *inside)))


def _ids(fields: Fields, key: str) -> list[int]:
    """One id, a list of them, or none."""
    value = fields.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    are_ids = all(isinstance(item, int) and not isinstance(item, bool) for item in ids)
    fields.require(are_ids, key, "be a token id or a list of token ids")
    return ids


def _tokenizers_id(files: ModelFiles, tokenizer: Tokenizer, token: str) -> tuple[int, ...]:
    token_id = tokenizer.special_id(token_name(files, token))
    return () if token_id is None else (token_id,)


def token_name(files: ModelFiles, token: str) -> str | None:
    """How the tokenizer's settings spell "bos_token" and the like: as text, or as an object with
    `content`."""
    value = files.tokenizer.settings.get(token)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
