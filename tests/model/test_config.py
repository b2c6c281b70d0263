"""config.json: what is understood, and that everything else is refused by file, field and value."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ModelFolderError
from shoal.model.config import ModelConfig, parse_config, read_config
from tests.fakes.tiny_models import TINY_GPT2, TINY_LLAMA


def llama(**changes: Any) -> ModelConfig:
    return parse_config(TINY_LLAMA | changes, "tiny")


def qwen2(**changes: Any) -> ModelConfig:
    return llama(architectures=["Qwen2ForCausalLM"], **changes)


def mistral(**changes: Any) -> ModelConfig:
    return llama(architectures=["MistralForCausalLM"], **changes)


def scaled(**scaling: Any) -> dict[str, Any]:
    return {"rope_scaling": scaling}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GPTNeoXForCausalLM"]}, "'GPTNeoXForCausalLM' is none of"),
    ({"architectures": []}, "architecture None"),
    ({"architectures": "LlamaForCausalLM"}, "architecture None"),
    ({"architectures": [["LlamaForCausalLM"]]}, "is none of"),
    ({"architectures": None}, "architecture None"),
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
    ({"partial_rotary_factor": 0.5, "rope_scaling": {}}, "partial_rotary_factor must be 1"),
    (scaled(rope_type="longrope", factor=2.0), "rope_scaling: rope_type must be one of default"),
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
    assert caught.value.message.startswith("tiny/config.json")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 5}, "n_head must divide"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be"),
        ({"scale_attn_weights": False}, "scale_attn_weights must be true"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_positions": None}, "n_positions"),
        ({"activation_function": "relu"}, "activation_function"),
    ],
)
def test_a_gpt2_that_cannot_be_computed_right_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        parse_config(TINY_GPT2 | changes, "tiny")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\ufeff{}", '{"a": ' + "[" * 100_000, "{'a': 1}"]
)
def test_a_file_that_is_no_json_object_is_a_clean_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_file_that_is_missing_or_not_utf8_is_a_clean_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        read_config(tmp_path)


def test_defaults_of_the_families() -> None:
    config = llama(num_key_value_heads=None, head_dim=None)
    assert (config.num_kv_heads, config.head_size) == (6, 8)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (False, False, False)
    assert (qwen2().qkv_bias, qwen2().output_bias) == (True, False)
    both = llama(attention_bias=True)
    assert (both.qkv_bias, both.output_bias, both.mlp_bias) == (True, True, False)
    gpt2 = parse_config(TINY_GPT2, "tiny")
    assert (gpt2.mlp_size, gpt2.tied_embeddings, gpt2.inv_freq) == (128, True, ())


def test_a_window_counts_only_where_the_family_uses_it_in_every_layer() -> None:
    assert llama(sliding_window=16).sliding_window is None
    assert mistral(sliding_window=16).sliding_window == 16
    assert mistral(sliding_window=None).sliding_window is None
    assert mistral(sliding_window=256).sliding_window is None  # as long as the context
    used = {"sliding_window": 16, "use_sliding_window": True}
    assert qwen2(sliding_window=16).sliding_window is None
    assert qwen2(**used, max_window_layers=0).sliding_window == 16
    assert qwen2(**used, max_window_layers=2).sliding_window is None
    assert qwen2(**used).sliding_window is None  # 28 layers without one is the family's default
    assert qwen2(**used, layer_types=["sliding_attention"] * 2).sliding_window == 16
    assert qwen2(**used, layer_types=["full_attention"] * 2).sliding_window is None
    for mixed in (
        {"max_window_layers": 1},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"layer_types": ["sliding_attention"]},
    ):
        with pytest.raises(ModelFolderError, match=r"max_window_layers|layer_types"):
            qwen2(**used, **mixed)


def test_dynamic_scaling_changes_nothing_within_the_context() -> None:
    assert llama(**scaled(rope_type="dynamic", factor=4.0)) == llama()


def test_a_config_written_by_transformers_itself_reads_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    old = TINY_LLAMA | {"rope_scaling": LLAMA3, "torch_dtype": None}
    transformers.LlamaConfig(**old).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in fields  # the newer way to say it
    fields["architectures"] = ["LlamaForCausalLM"]
    assert parse_config(fields, "new") == parse_config(old, "old")
