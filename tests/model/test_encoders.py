"""Encoders: their final vectors are those of `transformers`, and every key of a config is used or
refused by name."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.loader import load_checkpoint
from shoal.model.registry import ARCHITECTURES, read_model
from tests.fakes.tiny_encoders import ENCODERS, make_encoder, write_encoder
from tests.model.driving import BACKENDS
from tests.model.encoder_cases import CASES, TOKENS, ours, theirs

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

TOLERANCE = 1e-4
ALL_CASES = [(kind, name) for kind, cases in CASES.items() for name in cases]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "name"), ALL_CASES)
def test_final_vectors_are_those_of_transformers(
    tmp_path: Path, kind: str, name: str, backend: str
) -> None:
    folder = write_encoder(tmp_path, kind, **CASES[kind][name])
    found = load_checkpoint(folder, lambda share: None)
    assert found.unused_keys == []
    reference = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    for token_ids in (TOKENS, TOKENS[:1], TOKENS[-17:]):
        wanted = theirs(reference, token_ids)
        np.testing.assert_allclose(ours(found, backend, token_ids), wanted, 0, TOLERANCE)


@pytest.mark.parametrize(("kind", "name"), ALL_CASES)
def test_what_an_encoder_does_without_is_named(tmp_path: Path, kind: str, name: str) -> None:
    changes = CASES[kind][name]
    unused = load_checkpoint(write_encoder(tmp_path, kind, **changes), lambda share: None)[-1]
    has_head = "architectures" in changes
    assert {key.split(".")[0] for key in unused} <= {
        "pooler", "bert", "cls", "lm_head", "vocab_transform", "vocab_layer_norm",
        "vocab_projector", "roberta", "head", "decoder",
    }  # fmt: skip
    assert bool(unused) == (has_head or kind not in ("distilbert", "modernbert"))


def test_gamma_and_beta_of_older_files_are_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_encoder(tmp_path, "bert", architectures=["BertForMaskedLM"])
    wanted = load_checkpoint(folder, lambda share: None).weights
    wanted = {role: stored.array.copy() for role, stored in wanted.items()}
    path = folder / "model.safetensors"
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    arrays = {}
    for key, array in load_file(path).items():
        end = ".".join(key.split(".")[-2:])
        arrays[key.removesuffix(end) + older.get(end, end)] = array.copy()
    arrays["bert.embeddings.position_ids"] = np.arange(98)[None]
    save_file(arrays, path)
    found = load_checkpoint(folder, lambda share: None).weights
    assert wanted.keys() == found.keys()
    for role, array in wanted.items():
        np.testing.assert_array_equal(found[role].array, array)


def test_positions_of_roberta_begin_behind_the_padding() -> None:
    spec = read_model(ENCODERS["roberta"], "c").spec
    assert spec.max_position_embeddings == 96
    assert not spec.has_head
    assert not spec.is_causal


# --- every key of a config -----------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 100,
    "hidden_act": "relu",
    "layer_norm_eps": 0.1,
    "max_position_embeddings": 120,
    "type_vocab_size": 3,
    "pad_token_id": 5,
    "is_decoder": True,
    "add_cross_attention": True,
    "position_embedding_type": "relative_key",
    "is_encoder_decoder": True,
    "dim": 96,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 100,
    "activation": "relu",
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "llama",
    "pruned_heads": {"0": [1]},
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
    "sinusoidal_pos_embds": True,
    "dtype": "bfloat16",
    "id2label": {"0": "a"},
    "label2id": {"a": 0},
    "problem_type": "regression",
    "bos_token_id": 3,
    "eos_token_id": 3,
    "transformers_version": "4.0.0",
    "classifier_dropout": 0.5,
    "num_labels": 3,
    "hidden_activation": "relu",
    "norm_eps": 0.1,
    "local_attention": 6,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 100.0,
    "local_rope_theta": 100.0,
    "partial_rotary_factor": 0.5,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "layer_types": ["sliding_attention"] * 4,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
    "classifier_pooling": "mean",
    "classifier_activation": "relu",
}


def keys_of(kind: str) -> Iterator[str]:
    settings = transformers.CONFIG_MAPPING[ENCODERS[kind]["model_type"]]()
    known = {key for key in settings.to_dict() if not key.startswith("_")}
    yield from sorted(known | CHANGES.keys() | settings.attribute_map.keys())


def another(kind: str, key: str) -> Any:
    if key in CHANGES:
        return CHANGES[key]
    match getattr(transformers.CONFIG_MAPPING[ENCODERS[kind]["model_type"]](), key, None):
        case bool() as value:
            return not value
        case int() as value:
            return value + 1
        case float() as value:
            return value / 2
    raise AssertionError(f"say in CHANGES what else {key} may be")


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_changed_key_changes_the_network_as_in_transformers_or_is_refused_by_name(
    tmp_path: Path, kind: str
) -> None:
    base = ENCODERS[kind]
    before = read_model(base, "tiny/config.json").spec
    seen: set[str] = set()
    same = load_checkpoint(write_changed(tmp_path / "base", base), lambda share: None)
    for key in keys_of(kind):
        config = base | {key: another(kind, key)}
        refusal = ""
        try:
            spec, unused = read_model(config, "tiny/config.json")[1:]
        except ModelFolderError as error:
            refusal = error.message
        if refusal:
            assert key in refusal, refusal
            continue
        seen.add(key)
        if spec != before:
            folder = write_changed(tmp_path / key, config)
            found = ours(load_checkpoint(folder, lambda share: None), "torch", TOKENS)
            wanted = theirs(make_encoder(deepcopy(config)), TOKENS)
            np.testing.assert_allclose(found, wanted, 0, TOLERANCE, err_msg=key)
        elif key not in unused:  # to transformers it is the same network, too
            network = make_encoder(deepcopy(config))
            network.load_state_dict(make_encoder(deepcopy(base)).state_dict())
            wanted = ours(same, "torch", TOKENS)
            np.testing.assert_allclose(theirs(network, TOKENS), wanted, 0, TOLERANCE, err_msg=key)
    assert "vocab_size" in seen


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_config_written_by_transformers_itself_reads_the_same(tmp_path: Path, kind: str) -> None:
    settings = transformers.CONFIG_MAPPING[kind].from_dict(deepcopy(ENCODERS[kind]))
    settings.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    found = read_model(fields, "tiny/config.json")
    assert found.spec == read_model(ENCODERS[kind], "tiny/config.json").spec
    assert found.unused_keys == []


def write_changed(folder: Path, config: dict[str, Any]) -> Path:
    make_encoder(deepcopy(config)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("bert", {"is_decoder": True}, "is_decoder must be false"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention must be false"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type must be"),
        ("bert", {"num_attention_heads": 5}, "num_attention_heads must divide hidden_size"),
        ("bert", {"sliding_window": 5}, "sliding_window must be left out"),
        ("roberta", {"pad_token_id": 0}, "pad_token_id must be 1"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings must be above 2"),
        ("xlm-roberta", {"hidden_act": "mish"}, "hidden_act must be one of"),
        ("distilbert", {"n_heads": 7}, "must divide"),
        ("distilbert", {"hidden_size": 64}, "hidden_size must be equal to dim"),
    ],
)
def test_what_cannot_be_computed_right_is_refused_by_name(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        read_model(ENCODERS[kind] | changes, "tiny/config.json")


def test_a_table_of_token_types_has_as_many_rows_as_the_config_says(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text()) | {"type_vocab_size": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"token_type_embeddings\.weight \[2, 48\] instead"):
        load_checkpoint(folder, lambda share: None)


def test_heads_for_other_tasks_are_not_taken_for_encoders() -> None:
    names = {"BertForSequenceClassification", "BertForTokenClassification", "BertLMHeadModel"}
    assert not names & ARCHITECTURES.keys()
    with pytest.raises(ModelFolderError, match="architectures must begin with one of"):
        read_model(ENCODERS["bert"] | {"architectures": ["BertForSequenceClassification"]}, "c")


def test_a_folder_without_further_files_gives_the_plain_mean(tmp_path: Path) -> None:
    found = load_checkpoint(write_encoder(tmp_path, "distilbert"), lambda share: None)
    assert found.spec.embedding is not None
    assert (found.spec.embedding.pooling, found.spec.embedding.normalized) == ("mean", False)
    assert open_model(tmp_path).embedding is None
