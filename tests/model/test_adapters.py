"""Adapters on both backends: what peft computes, the merged weights' answers, and rows that do not
see each other's adapters, bit for bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.open import open_model
from shoal.kernels import native
from shoal.model.adapter import AdapterMatrix, load_adapter
from shoal.model.registry import read_model
from shoal.runner.inputs import AdaptableBackend, Float32
from tests.fakes.tiny_adapters import write_adapter, write_merged
from tests.fakes.tiny_models import write_tiny_model
from tests.model.driving import (
    BACKENDS,
    Batch,
    Sequence,
    greedy,
    log_probs,
    make_backend,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

GPT2_TARGETS = ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
PHI_TARGETS = ("q_proj", "v_proj", "dense", "fc1", "fc2")

PEFT_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "everything": ("llama", {"target_modules": "all-linear", "r": 4, "lora_alpha": 12}),
    "q only": ("llama", {"target_modules": ["q_proj"], "r": 3, "lora_alpha": 3}),
    "k and down": ("llama", {"target_modules": ["k_proj", "down_proj"], "r": 5, "lora_alpha": 7}),
    "pattern": ("llama", {"target_modules": r".*\.(v|o|gate)_proj", "r": 2, "lora_alpha": 4}),
    "rslora": (
        "qwen2",
        {"target_modules": ["q_proj", "up_proj"], "r": 4, "lora_alpha": 8, "use_rslora": True},
    ),
    "rank and alpha patterns": (
        "qwen3",
        {
            "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj"],
            "r": 4,
            "lora_alpha": 4,
            "rank_pattern": {"q_proj": 17, "^model.layers.1.self_attn.v_proj": 2},
            "alpha_pattern": {"layers.0.mlp.gate_proj": 9, "o_proj": 1},
        },
    ),
    "one layer, one name excluded": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "o_proj"],
            "layers_to_transform": [1],
            "exclude_modules": ["k_proj"],
        },
    ),
    "fused and transposed": (
        "gpt2",
        {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "fan_in_fan_out": True},
    ),
    "parallel layers, biases": ("phi", {"target_modules": list(PHI_TARGETS), "r": 6}),
}


def matrices_of(base: Path, adapter: Path) -> list[AdapterMatrix]:
    files = open_model(base)
    description = read_model(files.config, files.config_file)
    return load_adapter(AdapterFolder(adapter), description.architecture, description.spec)


def load(backend: object, base: Path, adapters: dict[int, Path]) -> None:
    assert isinstance(backend, AdaptableBackend)
    for adapter_id, adapter in adapters.items():
        backend.load_adapter(adapter_id, matrices_of(base, adapter))


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("case", PEFT_CASES)
def test_logits_are_those_of_peft(kind: str, case: str, tmp_path: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    family, settings = PEFT_CASES[case]
    base = write_tiny_model(tmp_path / "base", family)
    network = peft.get_peft_model(
        reference_model(base), peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    network.save_pretrained(tmp_path / "adapter")
    token_ids = random_ids(40)
    plain = reference_logits(network.get_base_model(), token_ids)
    network.eval()
    expected = reference_logits(network, token_ids)
    merged = reference_logits(network.merge_and_unload(), token_ids)
    backend = make_backend(base, kind)
    load(backend, base, {7: tmp_path / "adapter"})
    found = whole_logits(Batch.over(backend), token_ids, adapter_id=7)
    assert np.abs(log_probs(expected) - log_probs(found)).max() < 1e-4
    assert np.abs(log_probs(merged) - log_probs(found)).max() < 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    assert np.abs(plain - expected).max() < 1e-6  # get_base_model keeps the adapter's layers


CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "llama": ("llama", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                        "down_proj"), {}),
    "uneven heads": ("llama", ("q_proj", "v_proj", "up_proj"),
                     {"head_dim": 20, "num_key_value_heads": 1, "intermediate_size": 70}),
    "gpt2": ("gpt2", GPT2_TARGETS, {}),
    "phi": ("phi", PHI_TARGETS, {}),
}  # fmt: skip


@pytest.fixture(params=CASES)
def base_and_adapters(request: Any, tmp_path: Path) -> tuple[Path, dict[int, Path]]:
    """A base and two adapters of it, of different rank."""
    family, targets, changes = CASES[request.param]
    base = write_tiny_model(tmp_path / "base", family, **changes)
    return base, {
        1: write_adapter(tmp_path / "one", base, targets=targets, rank=4, seed=1),
        5: write_adapter(tmp_path / "five", base, targets=targets[1:], rank=19, seed=5),
    }


@pytest.mark.parametrize("kind", BACKENDS)
def test_answers_are_those_of_merged_weights(
    kind: str, base_and_adapters: tuple[Path, dict[int, Path]], tmp_path: Path
) -> None:
    base, adapters = base_and_adapters
    backend = make_backend(base, kind)
    load(backend, base, adapters)
    prompts = [random_ids(length, seed=length) for length in (9, 23, 40)]
    answers = {}
    for adapter_id, adapter in adapters.items():
        merged = make_backend(write_merged(tmp_path / f"m{adapter_id}", base, adapter), kind)
        for prompt in prompts:
            expected = log_probs(whole_logits(Batch.over(merged), prompt))
            found = whole_logits(Batch.over(backend), prompt, adapter_id=adapter_id)
            assert np.abs(log_probs(found) - expected).max() < 1e-4
        answers[adapter_id] = greedy(Batch.over(backend), prompts, 20, [adapter_id] * 3)
        assert answers[adapter_id] == greedy(Batch.over(merged), prompts, 20)
    assert answers[1] != answers[5] != greedy(Batch.over(backend), prompts, 20)


Rows = list[tuple[int, int]]
"""(length, adapter) of each."""


def steps(backend: Any, rows: Rows, chunk: int) -> list[list[Float32]]:
    """All logits of every row: prompts in chunks, then five tokens one at a time, together."""
    batch = Batch.over(backend)
    seqs = [Sequence(random_ids(length, seed=length), adapter_id=who) for length, who in rows]
    found: list[list[Float32]] = [[] for _ in rows]
    while active := [i for i, s in enumerate(seqs) if s.num_computed < len(s.token_ids)]:
        parts = []
        for i in active:
            left = len(seqs[i].token_ids) - seqs[i].num_computed
            parts.append((seqs[i], min(left, chunk if left > 5 else 1)))
        logits = batch.step(parts, every_logit=True)
        for i, (_, count) in zip(active, parts, strict=True):
            found[i].append(logits[:count])
            logits = logits[count:]
    return found


ROWS: Rows = [(30, 1), (17, 0), (41, 5), (12, 1), (33, 5), (22, 0), (8, 5), (50, 1), (45, 0)]


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_native_rows_are_the_same_alone_and_mixed(
    base_and_adapters: tuple[Path, dict[int, Path]],
) -> None:
    base, adapters = base_and_adapters
    for threads in (1, 2):
        backend = make_backend(base, "native", num_threads=threads)
        load(backend, base, adapters)
        for chunk in (3, 200):
            mixed = steps(backend, ROWS, chunk)
            for row, found in zip(ROWS, mixed, strict=True):
                (alone,) = steps(backend, [row], 7)
                assert np.array_equal(np.concatenate(found), np.concatenate(alone))


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_every_weight_format_takes_adapters(
    dtype: native.Dtype, base_and_adapters: tuple[Path, dict[int, Path]]
) -> None:
    """Mixed and alone the same bits; and what an adapter changes is what it changes in float32."""
    base, adapters = base_and_adapters
    exact = make_backend(base, "native")
    backend = make_backend(base, "native", dtype=dtype)
    plain = steps(backend, [(length, 0) for length, _ in ROWS], 9)
    for one in (exact, backend):
        load(one, base, adapters)
    mixed, expected = steps(backend, ROWS, 9), steps(exact, ROWS, 9)
    for row, found, wanted, without in zip(ROWS, mixed, expected, plain, strict=True):
        (alone,) = steps(backend, [row], 200)
        assert np.array_equal(np.concatenate(found), np.concatenate(alone))
        if row[1] == 0:
            assert np.array_equal(np.concatenate(found), np.concatenate(without))
        far = np.abs(np.concatenate(without) - np.concatenate(wanted)).mean()
        near = np.abs(np.concatenate(found) - np.concatenate(wanted)).mean()
        assert near < 0.2 if row[1] == 0 else near < 0.25 * far


@pytest.mark.parametrize("kind", BACKENDS)
def test_rows_do_not_see_the_adapters_of_others(
    kind: str, base_and_adapters: tuple[Path, dict[int, Path]]
) -> None:
    """The same batch, with other adapters on the neighbours."""
    base, adapters = base_and_adapters
    backend = make_backend(base, kind)
    plain = steps(backend, [(length, 0) for length, _ in ROWS], 9)
    load(backend, base, adapters)
    mixed = steps(backend, ROWS, 9)
    for index, row in enumerate(ROWS):
        others = [(length, (0, 1, 5)[(at + index) % 3]) for at, (length, _) in enumerate(ROWS)]
        others[index] = row
        found = np.concatenate(steps(backend, others, 9)[index])
        assert np.array_equal(found, np.concatenate(mixed[index]))
        if row[1] == 0:
            assert np.array_equal(found, np.concatenate(plain[index]))


@pytest.mark.parametrize("kind", BACKENDS)
def test_an_unloaded_adapter_makes_room_for_another(
    kind: str, base_and_adapters: tuple[Path, dict[int, Path]]
) -> None:
    base, adapters = base_and_adapters
    backend = make_backend(base, kind)
    assert isinstance(backend, AdaptableBackend)
    load(backend, base, adapters)
    token_ids = random_ids(20)
    expected = whole_logits(Batch.over(backend), token_ids, adapter_id=5)
    backend.unload_adapter(5)
    backend.unload_adapter(5)
    load(backend, base, {5: adapters[1], 6: adapters[5]})
    assert np.array_equal(whole_logits(Batch.over(backend), token_ids, adapter_id=6), expected)
    assert not np.allclose(whole_logits(Batch.over(backend), token_ids, adapter_id=5), expected)


@pytest.mark.parametrize("kind", ["cohere", "stablelm"])
def test_a_norm_of_every_head_is_no_linear_layer(tmp_path: Path, kind: str) -> None:
    switch = {"cohere": "use_qk_norm", "stablelm": "qk_layernorm"}[kind]
    base = write_tiny_model(tmp_path / "base", kind, **{switch: True})
    adapter = write_adapter(tmp_path / "adapter", base, target_modules="all-linear")
    found = matrices_of(base, adapter)
    assert {role for matrix in found for role in matrix.roles} >= {"q", "down"}
