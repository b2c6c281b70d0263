"""config.json: what is understood, and that everything else is refused by file, field and value."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.registry import ARCHITECTURES, read_model
from shoal.model.spec import DecoderSpec, RotarySpec
from tests.fakes.tiny_encoders import ENCODERS
from tests.fakes.tiny_models import CONFIGS
from tests.model.cases import LLAMA3, LONGROPE, YARN

CONFIG_FILE = "tiny/config.json"


def spec_of(family: str, *, max_model_len: int | None = None, **changes: Any) -> DecoderSpec:
    """A change to ... takes the key out."""
    config = {k: v for k, v in (CONFIGS[family] | changes).items() if v is not ...}
    return read_model(config, CONFIG_FILE, max_model_len).spec


def llama(**changes: Any) -> DecoderSpec:
    return spec_of("llama", **changes)


def rotary(spec: DecoderSpec) -> RotarySpec:
    found = spec.layers[0].attention.rotary
    assert found is not None
    return found


def windows(spec: DecoderSpec) -> list[int | None]:
    return [layer.attention.window for layer in spec.layers]


def scaled(**scaling: Any) -> dict[str, Any]:
    return {"rope_scaling": scaling}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"architectures": ["Llama9ForCausalLM"]},
        "architectures must begin with one of [0-9]+ known classes, such as LlamaForCausalLM, "
        ".*it is .'Llama9ForCausalLM'",
    ),
    ({"architectures": []}, "architectures must begin"),
    ({"architectures": "LlamaForCausalLM"}, "architectures must begin"),
    ({"architectures": [["LlamaForCausalLM"]]}, "architectures must begin"),
    ({"architectures": None}, "architectures must begin .* it is None"),
    ({"model_type": "mistral"}, "model_type must be 'llama' as `architectures` says"),
    ({"hidden_size": 0}, "hidden_size must be a whole number from 1 .* it is 0"),
    ({"hidden_size": -5}, "hidden_size"),
    ({"hidden_size": 48.0}, "hidden_size"),
    ({"hidden_size": "48"}, "hidden_size .* it is '48'"),
    ({"hidden_size": True}, "hidden_size"),
    ({"hidden_size": None}, "hidden_size"),
    ({"hidden_size": 1 << 62}, "hidden_size"),
    ({"hidden_size": 50}, "num_attention_heads must divide hidden_size"),
    ({"num_hidden_layers": 10**4000}, "num_hidden_layers"),
    ({"num_key_value_heads": 4}, "num_key_value_heads must divide"),
    ({"head_dim": 7}, "head_dim must be even"),
    ({"vocab_size": []}, "vocab_size"),
    ({"max_position_embeddings": {}}, "max_position_embeddings"),
    ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
    ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
    ({"rms_norm_eps": math.inf}, "rms_norm_eps"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ({"rope_theta": 1.0}, "rope_theta must be above 1"),
    ({"rope_theta": math.nan}, "rope_theta"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
    ({"hidden_act": "relu6"}, "hidden_act must be one of silu"),
    ({"hidden_act": ["silu"]}, "hidden_act"),
    ({"attention_bias": "no"}, "attention_bias"),
    ({"partial_rotary_factor": 1.5}, "partial_rotary_factor must be at most 1"),
    ({"partial_rotary_factor": 0.4}, "partial_rotary_factor must rotate an even number"),
    ({"partial_rotary_factor": 0.1}, "partial_rotary_factor must rotate an even number"),
    (scaled(partial_rotary_factor="half"), "rope_scaling: partial_rotary_factor"),
    (scaled(rope_type="longrope", factor=2.0), "short_factor must be a list of 4 positive"),
    ({"rope_scaling": {**LONGROPE, "long_factor": [1.0]}}, "long_factor must be a list of 4"),
    ({"rope_scaling": {**LONGROPE, "long_factor": [1, 2, 3, -4]}}, "long_factor"),
    (
        {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 1}},
        "original_max_position_embeddings must be above 1",
    ),
    (scaled(rope_type="mrope", factor=2.0), "rope_scaling: rope_type must be one of default"),
    (scaled(rope_type="linear", type="yarn", factor=2.0), "type must agree with rope_type"),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": YARN},
        "rope_scaling must agree with rope_parameters",
    ),
    (scaled(factor=2.0), "rope_scaling: factor must be left out with rope_type default"),
    (scaled(rope_type="linear", factor=2.0, beta_fast=8), "beta_fast must be left out"),
    (scaled(rope_type="default", mrope_section=[2, 1, 1]), "mrope_section must be left out"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention must be left"),
    (scaled(type="su", factor=2.0), "rope_scaling: type"),
    (scaled(rope_type=3), "rope_type"),
    ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
    (scaled(rope_type="linear"), "factor must be a positive number; it is None"),
    (scaled(rope_type="linear", factor=0), "factor"),
    (scaled(rope_type="linear", factor="2"), "factor"),
    ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor"),
    ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor must be below"),
    ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0}}, "original_max"),
    (scaled(rope_type="yarn", factor=-1.0), "factor"),
    (scaled(rope_type="yarn", factor=2.0, truncate="yes"), "truncate"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: repr(value)[:60])
def test_a_bad_field_is_refused_by_file_name_and_value(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message) as caught:
        llama(**changes)
    assert caught.value.message.startswith(CONFIG_FILE)
    assert len(caught.value.message) < 300


REFUSED_OF_A_FAMILY: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"n_head": 5}, "n_head must divide"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention must be false"),
    ("gpt2", {"n_positions": None}, "n_positions"),
    ("gpt2", {"activation_function": "quick_gelu"}, "activation_function must be one of"),
    ("gpt2", {"scale_attn_weights": "no"}, "scale_attn_weights"),
    ("gpt2", {"reorder_and_upcast_attn": 1}, "reorder_and_upcast_attn"),
    ("gpt2", {"hidden_size": 64}, "hidden_size must be equal to n_embd"),
    ("gpt2", {"sliding_window": 16}, "sliding_window must be left out: gpt2 does not have it"),
    ("gpt2", {"rope_theta": 10000.0}, "rope_theta must be left out"),
    ("gpt2", {"rope_scaling": LLAMA3}, "rope_scaling must be left out"),
    ("gpt2", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("llama", {"sliding_window": 16}, "sliding_window must be left out"),
    ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("llama", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("llama", {"qk_layernorm": True}, "qk_layernorm"),
    ("llama", {"activation_function": "gelu"}, "activation_function"),
    ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("mistral", {"sliding_window": 16, "use_sliding_window": False}, "use_sliding_window"),
    ("qwen2", {"attention_bias": True}, "attention_bias"),
    ("qwen2", {"mlp_bias": True}, "mlp_bias"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types must name every layer"),
    ("qwen2", {"layer_types": ["full_attention", "mamba"]}, "layer_types must hold"),
    ("qwen2", {"max_window_layers": -1}, "max_window_layers"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window"),
    ("qwen3", {"mlp_bias": True}, "mlp_bias"),
    ("qwen3", {"head_dim": 15}, "head_dim must be even"),
    ("phi", {"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
    ("phi", {"hidden_size": 50}, "num_attention_heads must divide hidden_size"),
    ("phi", {"rms_norm_eps": 1e-6}, "rms_norm_eps"),
    ("phi", {"num_key_value_heads": 3}, "num_key_value_heads must divide"),
    ("gemma", {"hidden_activation": "gelu"}, "hidden_activation must mean the same as hidden_act"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma2", {"hidden_act": "silu"}, "hidden_act must mean the same as hidden_activation"),
    ("gemma2", {"sliding_window": None}, "sliding_window must be a number of positions"),
    ("gemma2", {"sliding_window_pattern": 6}, "sliding_window_pattern"),
    ("gemma2", {"layer_types": ["full_attention"]}, "layer_types must name every layer"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"rope_parameters": LLAMA3}, "rope_parameters must hold full_attention and"),
    (
        "gemma3_text",
        {"rope_parameters": {"full_attention": {}}, "rope_scaling": {"type": "dynamic"}},
        "rope_scaling must be left out beside rope_parameters",
    ),
    ("gemma3_text", {"rope_local_base_freq": 0.5}, "rope_local_base_freq must be above 1"),
    ("phi3", {"rope_scaling": LLAMA3}, "rope_type must be one of default, longrope"),
    ("phi3", {"rope_scaling": LONGROPE}, "original_max_position_embeddings must be given"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must hold 0 or 1 for every layer"),
    ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
    ("smollm3", {"layer_types": ["sliding_attention"] * 2}, "layer_types must have no sliding"),
    ("granite", {"logits_scaling": 0}, "logits_scaling must be a positive number"),
    ("cohere2", {"use_qk_norm": True}, "use_qk_norm"),
    ("stablelm", {"head_dim": 16}, "head_dim must be hidden_size divided by"),
    ("ernie4_5", {"rope_scaling": {"type": "dynamic", "alpha": 9.0, "factor": 1.0}}, "alpha must"),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "default", "alpha": 9.0}}, "alpha must stand"),
    ("hunyuan_v1_dense", {"use_cla": True}, "use_cla"),
    ("nanochat", {"hidden_act": "relu3"}, "hidden_act must be one of .*relu2"),
]


@pytest.mark.parametrize(
    ("family", "changes", "message"), REFUSED_OF_A_FAMILY, ids=lambda value: repr(value)[:60]
)
def test_what_a_family_cannot_compute_right_is_refused_by_name(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        spec_of(family, **changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"sliding_window": None, "use_sliding_window": False}),
        ("llama", {"sliding_window": 16, "use_sliding_window": False, "max_window_layers": 28}),
        ("llama", {"sliding_window": 4096}),  # longer than any sequence
        ("llama", {"layer_types": ["full_attention"] * 2}),
        ("llama", {"scale_attn_weights": True, "qk_layernorm": False}),
        ("llama", {"is_encoder_decoder": False, "pruned_heads": {}}),
        ("mistral", {"attention_bias": False, "mlp_bias": False}),
        ("qwen2", {"n_positions": 256}),
        ("gpt2", {"rope_scaling": None, "rope_parameters": {}}),
    ],
    ids=str,
)
def test_a_key_of_another_family_that_changes_nothing_is_fine(
    family: str, changes: dict[str, Any]
) -> None:
    assert spec_of(family, **changes) == spec_of(family)


def test_keys_that_nothing_knows_are_told_and_those_without_effect_are_not() -> None:
    config = CONFIGS["llama"] | {
        "attention_dropout": 0.5,
        "use_cache": False,
        "transformers_version": "4.0",
        "output_attentions": True,
        "temperature": 0.3,
        "some_new_switch": True,
        "told_nothing": None,
        "rope_scaling": {"type": "linear", "factor": 2.0, "finetuned": True},
    }
    found = read_model(config, CONFIG_FILE)
    assert found.unused_keys == ["some_new_switch", "rope_scaling.finetuned"]


@pytest.mark.parametrize("kind", ["linear", "dynamic", "default"])
def test_an_original_length_that_a_rotation_does_not_use_is_told(kind: str) -> None:
    scaling = {"rope_type": kind, "original_max_position_embeddings": 64, "factor": 1.0}
    found = read_model(CONFIGS["llama"] | {"rope_scaling": scaling}, CONFIG_FILE)
    assert "rope_scaling.original_max_position_embeddings" in found.unused_keys


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\ufeff{}", '{"a": ' + "[" * 100_000, "{'a': 1}"]
)
def test_a_file_that_is_no_json_object_is_a_clean_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        _ = open_model(tmp_path).config


def test_defaults_of_the_families() -> None:
    spec = llama(num_key_value_heads=None, head_dim=None)
    attention, mlp = spec.layers[0].attention, spec.layers[0].mlp
    assert (attention.num_kv_heads, attention.head_dim, attention.scale) == (6, 8, 8**-0.5)
    assert (attention.qkv_bias, attention.output_bias, mlp.bias) == (False, False, False)
    qwen2 = spec_of("qwen2").layers[0].attention
    assert (qwen2.qkv_bias, qwen2.output_bias) == (True, False)
    both = llama(attention_bias=True).layers[0]
    assert (both.attention.qkv_bias, both.attention.output_bias, both.mlp.bias) == (
        True,
        True,
        False,
    )
    gpt2 = spec_of("gpt2")
    assert (gpt2.layers[0].mlp.intermediate_size, gpt2.tied_head) == (128, True)
    assert gpt2.layers[0].attention.rotary is None
    assert spec_of("qwen3", head_dim=...).layers[0].attention.head_dim == 128


@pytest.mark.parametrize(("family", "absent"), [("mistral", 8), ("qwen2", 32), ("qwen3", 32)])
def test_kv_heads_that_are_not_named_are_the_classes_own_and_null_means_all(
    family: str, absent: int
) -> None:
    heads = {"num_attention_heads": 64, "hidden_size": 512}
    spec = spec_of(family, **heads, num_key_value_heads=...)
    assert spec.layers[0].attention.num_kv_heads == absent
    spec = spec_of(family, **heads, num_key_value_heads=None)
    assert spec.layers[0].attention.num_kv_heads == 64


def test_a_window_counts_where_the_family_uses_it() -> None:
    assert windows(spec_of("mistral", sliding_window=16)) == [16, 16]
    assert windows(spec_of("mistral", sliding_window=None)) == [None, None]
    assert windows(spec_of("mistral", sliding_window=256)) == [None, None]  # as the context
    long = spec_of("mistral", max_position_embeddings=8192)
    assert windows(long) == [4096, 4096]  # the class's own, where the key is absent
    used = {"sliding_window": 16, "use_sliding_window": True, "num_hidden_layers": 3}
    for family in ("qwen2", "qwen3"):
        unused = spec_of(family, sliding_window=16, num_hidden_layers=3)
        assert windows(unused) == [None] * 3
        assert windows(spec_of(family, **used, max_window_layers=0)) == [16] * 3
        assert windows(spec_of(family, **used, max_window_layers=1)) == [None, 16, 16]
        assert windows(spec_of(family, **used)) == [None] * 3  # from layer 28 on by default
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        assert windows(spec_of(family, **used, layer_types=kinds)) == [16, None, 16]
        kinds = ["full_attention"] * 3
        assert windows(spec_of(family, **used, layer_types=kinds)) == [None] * 3


def test_dynamic_scaling_changes_nothing_within_the_context() -> None:
    assert llama(**scaled(rope_type="dynamic", factor=4.0)) == llama()


PARTS: dict[str, dict[str, Any]] = {
    "on top": {"partial_rotary_factor": 0.5},
    "on top, beside rope_scaling": {
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"type": "default"},
    },
    "in rope_scaling": {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}},
    "in rope_parameters": {
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}
    },
}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi"])
@pytest.mark.parametrize("place", PARTS)
def test_a_part_of_each_head_turns_wherever_that_is_said(family: str, place: str) -> None:
    spec = spec_of(family, **({"partial_rotary_factor": ...} | PARTS[place]))
    half = spec.layers[0].attention.head_dim // 4
    expected = tuple(10000.0 ** (-pair / half) for pair in range(half))
    assert rotary(spec).inv_freq == pytest.approx(expected)


def test_longrope_has_one_set_of_divisors_by_the_longest_sequence_that_will_be_served() -> None:
    short, long = (
        tuple(10000.0 ** (-pair / 4) / divisor for pair, divisor in enumerate(LONGROPE[key]))
        for key in ("short_factor", "long_factor")
    )
    scaling = {"rope_scaling": LONGROPE}
    assert rotary(llama(**scaling)).inv_freq == pytest.approx(long)
    assert rotary(llama(**scaling, max_model_len=65)).inv_freq == pytest.approx(long)
    assert rotary(llama(**scaling, max_model_len=64)).inv_freq == pytest.approx(short)
    assert rotary(llama(**scaling, max_model_len=1000)).inv_freq == pytest.approx(long)
    # The model's own length, not the served one, says how far it was stretched.
    magnitude = math.sqrt(1 + math.log(4) / math.log(64))
    assert rotary(llama(**scaling, max_model_len=64)).magnitude == pytest.approx(magnitude)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_written_by_transformers_itself_reads_the_same(
    family: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    has_rotary = family not in ("gpt2", "gpt_neo", "gptj", "opt", "bloom", "mpt")
    changes: dict[str, Any] = {"rope_scaling": LLAMA3} if has_rotary else {}
    if family == "phi3":  # which has this kind only
        changes = {"rope_scaling": LONGROPE, "original_max_position_embeddings": 64}
    config = deepcopy(CONFIGS[family] | changes)  # transformers writes into it
    transformers.AutoConfig.for_model(**config).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert ("rope_parameters" in fields) == has_rotary  # the newer way to say it
    found = read_model(fields, CONFIG_FILE)
    assert found.spec == spec_of(family, **changes)
    assert found.unused_keys == []


def test_every_family_has_a_small_config_to_test_it_with() -> None:
    families = {one.model_type for one in ARCHITECTURES.values()}
    assert families == CONFIGS.keys() | ENCODERS.keys()
