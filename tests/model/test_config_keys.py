"""Every key of every family's config, changed in turn: the numbers are those that `transformers`
computes for the changed config, or the key is refused by name. Nothing is read and ignored.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.errors import ModelFolderError
from shoal.model.registry import ARCHITECTURES, read_model
from shoal.model.weights import load_weights
from shoal.runner.inputs import Float32
from tests.fakes.tiny_models import CONFIGS, random_weights
from tests.model import changes_experts as experts
from tests.model import changes_gpt_like as gpt_like
from tests.model.cases import LLAMA3, LONGROPE, YARN
from tests.model.driving import (
    Batch,
    attention_of_reference,
    log_probs,
    random_ids,
    whole_logits,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from shoal.runner.backends.torch import TorchBackend  # noqa: E402

TOLERANCE = 1e-4
TOKENS = random_ids(70, vocab=250)
NUM_BLOCKS = 8

WINDOWS = {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1}
BASES: dict[str, dict[str, Any]] = {
    **CONFIGS,
    "mistral": CONFIGS["mistral"] | {"sliding_window": 11},
    "qwen2": CONFIGS["qwen2"] | WINDOWS,
    "qwen3": CONFIGS["qwen3"] | WINDOWS,
    "phi3": CONFIGS["phi3"] | {"original_max_position_embeddings": 64},
    "smollm3": CONFIGS["smollm3"] | {"use_sliding_window": True, "sliding_window": 11},
}
CHANGES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 20,
    "hidden_act": "relu",
    "rms_norm_eps": 0.1,
    "layer_norm_eps": 0.1,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
    "qk_layernorm": True,
    "rope_theta": 100.0,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0},
    "partial_rotary_factor": 0.5,
    "sliding_window": 7,
    "use_sliding_window": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "hidden_activation": "relu",
    "use_bidirectional_attention": True,
    "query_pre_attn_scalar": 30,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
    "sliding_window_pattern": 1,
    "rope_local_base_freq": 50.0,
    "no_rope_layers": [0, 1],
    "no_rope_layer_interval": 3,
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.5,
    "logit_scale": 0.25,
    "use_qk_norm": True,
    "use_qkv_bias": True,
    "use_parallel_residual": True,
    "use_bias": True,
    "use_cla": True,
    "n_embd": 64,
    "n_head": 2,
    "n_layer": 3,
    "n_positions": 128,
    "n_inner": 100,
    "activation_function": "relu",
    "layer_norm_epsilon": 0.1,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "add_cross_attention": True,
    "is_encoder_decoder": True,
    "model_type": "bert",
    "architectures": ["BertModel"],
    "pruned_heads": {"0": [1]},
    "norm_eps": 0.1,
    "conv_bias": True,
    "conv_L_cache": 4,
    "full_attn_idxs": [0, 2],
    "block_ff_dim": 120,
    "block_auto_adjust_ff_dim": False,
    "block_ffn_dim_multiplier": 1.5,
    "block_multiple_of": 50,
    "tie_embedding": False,
    "block_dim": 64,
    "conv_dim": 64,
    "conv_dim_out": 64,
    "num_heads": 3,
    "block_norm_eps": 0.1,
    "block_use_swiglu": False,
    "use_pos_enc": False,
}
"""Another value of each key that changes the numbers."""
PHI3_ROPE: dict[str, Any] = {
    "type": "longrope",
    "short_factor": [2.0, 2.0, 2.0, 3.0],
    "long_factor": [2.0, 2.0, 2.0, 4.0],
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "mistral": {"use_sliding_window": False},
    "gpt2": {"tie_word_embeddings": False},
    "phi": {"partial_rotary_factor": 1.0},
    "qwen2": {"use_sliding_window": False, "max_window_layers": 0},
    "qwen3": {"use_sliding_window": False, "max_window_layers": 0},
    "gemma2": {"layer_types": ["full_attention", "sliding_attention"]},
    "gemma3_text": {
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 3.0}},
    },
    "smollm3": {"use_sliding_window": False},
    "phi3": {"rope_scaling": PHI3_ROPE, "rope_parameters": {**PHI3_ROPE, "rope_theta": 500.0}},
    "cohere": {"tie_word_embeddings": False},
    "cohere2": {
        "tie_word_embeddings": False,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "stablelm": {"partial_rotary_factor": 1.0},
    "hunyuan_v1_dense": {"use_qk_norm": False},
    "lfm2": {
        "num_hidden_layers": 2,
        "n_layer": 2,
        "n_layers": 2,
        "num_layers": 2,
        "intermediate_size": 150,
        "tie_word_embeddings": False,
        "layer_types": ["full_attention", "conv", "conv"],
    },
}
"""The same where a family has other defaults."""
WITHOUT_EFFECT: dict[str, Any] = {
    "reorder_and_upcast_attn": True,
    "max_position_embeddings": 128,  # a limit
    "max_window_layers": 0,
    "return_dict": True,
    "transformers_version": "4.0.0",
    "original_max_position_embeddings": 32,
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "id2label": {"0": "a"},
    "label2id": {"a": 0},
    "problem_type": "regression",
    "eos_token_id": [1, 2],
    "bos_token_id": 5,
    "pad_token_id": 3,
    "attention_dropout": 0.5,
    "summary_activation": "tanh",
}
BASES |= gpt_like.BASES | experts.BASES
CHANGES |= gpt_like.CHANGES | experts.CHANGES
OF_FAMILY |= gpt_like.OF_FAMILY | experts.OF_FAMILY
WITHOUT_EFFECT |= gpt_like.WITHOUT_EFFECT
TURN_WHOLE_HEADS = BASES.keys() - {"gpt2", "phi", "phi3", "stablelm", "gpt_neox"}
OBEYED_HERE_ALONE = {(family, "partial_rotary_factor") for family in TURN_WHOLE_HEADS}
"""`transformers` ignores it for these classes; other servers obey it."""


def keys_of(family: str) -> Iterator[str]:
    """What the config class of `transformers` knows, and what any family here reads."""
    theirs = transformers.AutoConfig.for_model(BASES[family]["model_type"])
    known = {key for key in theirs.to_dict() if not key.startswith("_")}
    ours = {key for one in ARCHITECTURES.values() for key in one.optional_keys}
    yield from sorted(known | ours | CHANGES.keys() | set(theirs.attribute_map))


def another(family: str, key: str) -> Any:
    """A plausible other value than the base's."""
    for known in (OF_FAMILY.get(family, {}), CHANGES, WITHOUT_EFFECT):
        if key in known:
            return known[key]
    before = getattr(transformers.AutoConfig.for_model(BASES[family]["model_type"]), key, None)
    match before:
        case bool():
            return not before
        case int():
            return before + 1
        case float():
            return before + 0.25
        case str():
            return "another"
    raise AssertionError(f"say in CHANGES or WITHOUT_EFFECT what else {key} may be")


def ours(config: dict[str, Any]) -> Float32:
    """Log-probabilities of TOKENS. Raises ModelFolderError."""
    architecture, spec, _ = read_model(config, "tiny/config.json")
    stored = {
        name: StoredTensor("F32", array, "tiny/model.safetensors")
        for name, array in random_weights(config).items()
    }
    weights = load_weights(spec, architecture, stored, "tiny")
    backend = TorchBackend(
        spec, weights, dtype=torch.float32, device="cpu", num_blocks=NUM_BLOCKS, block_size=16
    )
    return log_probs(whole_logits(Batch.over(backend, num_blocks=NUM_BLOCKS), TOKENS))


def theirs(config: dict[str, Any]) -> Any:
    """The same from `transformers`, with the same weights."""
    settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(deepcopy(config))
    network = transformers.AutoModelForCausalLM.from_config(
        settings,
        attn_implementation=attention_of_reference(config),
        experts_implementation="eager",
        dtype=torch.float32,
    )
    weights = experts.as_in_memory(config, random_weights(config))
    arrays = {name: torch.from_numpy(array) for name, array in weights.items()}
    report = network.load_state_dict(arrays, strict=False)
    assert set(report.missing_keys) <= {"lm_head.weight"}
    assert not report.unexpected_keys
    network.tie_weights()
    with torch.inference_mode():
        logits = network.eval()(torch.tensor([TOKENS])).logits[0].numpy()
    return log_probs(logits)


EACH_OR_TOGETHER = pytest.mark.parametrize(
    "together",
    [True, pytest.param(False, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
    ids=["together", "each"],
)
"""Whether all changes that are none to us are compared with `transformers` in one config."""


@pytest.mark.parametrize("family", BASES)
def test_the_bases_are_equal_before_anything_changes(family: str) -> None:
    np.testing.assert_allclose(ours(BASES[family]), theirs(BASES[family]), atol=TOLERANCE, rtol=0)


@EACH_OR_TOGETHER
@pytest.mark.parametrize("family", BASES)
def test_a_changed_key_changes_the_numbers_as_in_transformers_or_is_refused_by_name(
    family: str, together: bool
) -> None:
    base = BASES[family]
    changed = {key: base | {key: another(family, key)} for key in keys_of(family)}
    same = check_changes(family, changed, must_change=True)
    everything = base | {key: changed[key][key] for key in same}
    check_same(family, [changed[key] for key in same], everything if together else None)


@EACH_OR_TOGETHER
@pytest.mark.parametrize("family", BASES)
def test_a_key_that_is_left_out_means_the_classes_default_or_is_asked_for_by_name(
    family: str, together: bool
) -> None:
    base = BASES[family]
    shorter = {
        left_out: {key: value for key, value in base.items() if key != left_out}
        for left_out in base
        if left_out not in ("model_type", "pad_token_id")  # without them transformers cannot start
        and (family, left_out) != ("hunyuan_v1_dense", "head_dim")  # the same
    }
    same = check_changes(family, shorter, must_change=False)
    shortest = {key: value for key, value in base.items() if key not in same}
    check_same(family, [shorter[key] for key in same], shortest if together else None)


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn with mscale": YARN | {"mscale": 1.2, "mscale_all_dim": 0.7},
    "longrope": LONGROPE,
    "proportional": {"rope_type": "proportional", "factor": 2.0, "rope_theta": 10000.0},
}
ROPE_CHANGES: dict[str, Any] = {
    "rope_type": "proportional",
    "rope_theta": 100.0,
    "factor": 5.0,
    "low_freq_factor": 2.0,
    "high_freq_factor": 8.0,
    "original_max_position_embeddings": 32,
    "attention_factor": 1.5,
    "beta_fast": 4.0,
    "beta_slow": 0.01,
    "mscale": 3.0,
    "mscale_all_dim": 0.1,
    "truncate": False,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 1.5, 2.0, 2.5],
    "mrope_section": [2, 1, 1],
    "full_attention": {"rope_type": "default", "rope_theta": 3.0},
}


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("key", [*ROPE_CHANGES, "on top: original_max_position_embeddings"])
def test_a_changed_key_of_a_rotation_is_used_as_in_transformers_or_refused_by_name(
    kind: str, key: str
) -> None:
    place = "rope_parameters" if kind in ("llama3", "longrope") else "rope_scaling"
    base = CONFIGS["llama"] | {place: ROPES[kind]}
    name = key.removeprefix("on top: ")
    change = {name: ROPE_CHANGES[name]}
    changed = base | (change if name != key else {place: ROPES[kind] | change})
    check_change("llama", base, changed, name, must_change=False)


@cache
def before_change(base: str) -> Float32:
    return ours(json.loads(base))


def check_changes(
    family: str, changed: dict[str, dict[str, Any]], *, must_change: bool
) -> list[str]:
    """Checks configs, each by its changed key; returns the keys of those that are read as the very
    network of the base."""
    same = []
    unchanged = read_model(BASES[family], "tiny/config.json")[:2]
    for key, config in changed.items():
        refusal, is_same = "", False
        try:
            is_same = read_model(config, "tiny/config.json")[:2] == unchanged
        except ModelFolderError as error:
            refusal = error.message
        assert key in (refusal or key), refusal
        if refusal:
            continue
        if not is_same:
            check_change(family, BASES[family], config, key, must_change=must_change)
            continue
        assert not (must_change and has_effect(family, key)), f"{key} was accepted and ignored"
        same.append(key)
    return same


def check_same(family: str, configs: list[dict[str, Any]], together: dict[str, Any] | None) -> None:
    """To `transformers` as to us all changes together are the base's network, or each by itself."""
    wanted = before_change(json.dumps(BASES[family]))
    if together is not None and np.abs(theirs(together) - wanted).max() < TOLERANCE:
        return
    for config in configs:
        np.testing.assert_allclose(wanted, theirs(config), 0, TOLERANCE, err_msg=str(config))


def has_effect(family: str, key: str) -> bool:
    """Whether the other value of the key has to change the numbers."""
    if (family, key) in OBEYED_HERE_ALONE:
        return True
    is_told = key in CHANGES or key in OF_FAMILY.get(family, {})
    return is_told and (family, key) not in gpt_like.IGNORED


def check_change(
    family: str,
    base: dict[str, Any],
    changed: dict[str, Any],
    key: str,
    *,
    must_change: bool = True,
) -> None:
    refusal, found = "", None
    try:
        found = ours(changed)
    except ModelFolderError as error:
        refusal = error.message
    if found is None:
        assert key in refusal, refusal
        return
    before = before_change(json.dumps(base))
    has_changed = found.shape != before.shape or np.abs(found - before).max() > 1e-3
    if (family, key) in OBEYED_HERE_ALONE:
        assert has_changed
        return
    np.testing.assert_allclose(found, theirs(changed), atol=TOLERANCE, rtol=0, err_msg=key)
    if must_change and has_effect(family, key):
        assert has_changed, f"{key} was accepted and changed nothing"
