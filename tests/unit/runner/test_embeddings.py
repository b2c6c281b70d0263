"""Embeddings of prompts: those of `transformers` pooled as the files say, the same bits in any
company, beside rows that generate, and what a loaded model says of itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.errors import ModelFolderError
from shoal.kernels import native
from shoal.model.spec import EmbeddingSpec
from shoal.protocol.messages import EngineConfig, LoadedModel, ModelSource
from shoal.protocol.params import OutputParams
from shoal.protocol.step import NewRow, StepResult
from shoal.runner.load import check_model, load_runner
from shoal.runner.pooling import pooled, pooled_tokens
from tests.fakes.tiny_encoders import write_encoder, write_sentence_files
from tests.fakes.tiny_models import write_tiny_model
from tests.model.driving import random_ids
from tests.unit.runner.building import new_row, plan

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

KERNELS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="not built")),
]
PROMPTS = [random_ids(count, seed=count, vocab=250) for count in (1, 7, 16, 40, 33)]
WANTED = OutputParams(embedding=True)
FLAGS = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}


def load(folder: Path, **config: Any) -> tuple[Any, LoadedModel]:
    settings = EngineConfig(models=(), num_threads=1, **{"kernels": "torch", **config})
    source = ModelSource("tiny", str(folder))
    return load_runner(source, settings, 4 << 20, lambda _: None)[:2]


def rows(which: list[int], output: OutputParams = WANTED) -> list[NewRow]:
    return [new_row(i, PROMPTS[i], [3 * i, 3 * i + 1, 3 * i + 2], output=output) for i in which]


def embed(runner: Any, which: list[int]) -> list[bytes]:
    """All in one step."""
    parts = [(i, 0, len(PROMPTS[i])) for i in which]
    result = runner.run(plan(*parts, new=rows(which)))
    assert result.token_ids == [None] * len(which)
    assert result.errors == {}
    runner.run(plan((99, 0, 1), new=[new_row(99, [1], [0], output=WANTED)], released=which))
    return [result.embeddings[i] for i in which]


def numbers(vector: bytes) -> NDArray[np.float32]:
    return np.frombuffer(vector, "<f4")


def reference(folder: Path, pooling: str, normalized: bool) -> list[NDArray[np.float64]]:
    """Of each prompt, pooled in float64."""
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt in PROMPTS:
        with torch.inference_mode():
            states = network(torch.tensor([prompt])).last_hidden_state[0].double().numpy()
        vector = {"mean": states.mean(0), "first": states[0], "last": states[-1]}[pooling]
        found.append(vector / np.linalg.norm(vector) if normalized else vector)
    return found


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("pooling", FLAGS)
@pytest.mark.parametrize("kind", ["bert", "qwen3", "qwen3 without head"])
def test_embeddings_are_those_of_transformers(
    tmp_path: Path, kind: str, pooling: str, normalized: bool, kernels: str
) -> None:
    if kind == "bert":
        folder = write_encoder(tmp_path)
    elif kind == "qwen3":
        folder = write_tiny_model(tmp_path, kind)
    else:
        folder = write_tiny_model(tmp_path, "qwen3", architectures=["Qwen3Model"])
    modules = ("Transformer", "Pooling", "Normalize")[: 3 if normalized else 2]
    write_sentence_files(folder, modules=modules, pooling={f"pooling_mode_{FLAGS[pooling]}": True})
    runner, loaded = load(folder, kernels=kernels, dtype="float32")
    assert loaded.embedding_size == 48
    assert loaded.generates == (kind == "qwen3")
    assert loaded.whole_prompt == (kind == "bert" or pooling != "last")
    found = [numbers(vector) for vector in embed(runner, [0, 1, 2, 3, 4])]
    for vector, wanted in zip(found, reference(folder, pooling, normalized), strict=True):
        np.testing.assert_allclose(vector, wanted, 0, 1e-4)


@pytest.mark.parametrize(
    ("kernels", "quantize", "stored"),
    [
        ("torch", "none", "float32"),
        *(
            pytest.param(
                "native",
                quantize,
                stored,
                marks=pytest.mark.skipif(not native.available(), reason="not built"),
            )
            for quantize, stored in (
                ("none", "float32"),
                ("none", "bfloat16"),
                ("int8", "float32"),
                ("int4", "float32"),
            )
        ),
    ],
)
def test_a_prompt_has_the_same_embedding_alone_and_in_any_batch(
    tmp_path: Path, kernels: str, quantize: str, stored: str
) -> None:
    folder = write_encoder(tmp_path, files=True)
    dtype = "auto" if quantize != "none" else stored
    runner, _ = load(folder, kernels=kernels, quantize=quantize, dtype=dtype)
    alone = [embed(runner, [i])[0] for i in range(5)]
    same = [alone[i] == vector for i in (4, 0, 2) for vector in [embed(runner, [4, 0, 2])[0]]]
    assert same == [True, False, False]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0], [3, 1]):
        together = embed(runner, order)
        if kernels == "native":
            assert together == [alone[i] for i in order]
        for i, vector in zip(order, together, strict=True):
            np.testing.assert_allclose(numbers(vector), numbers(alone[i]), 0, 1e-5)


def run_beside(runner: Any, kinds: list[bool]) -> StepResult:
    """One step of a row per prompt; does it want an embedding, or a token?"""
    new = [rows([i], WANTED if wants else OutputParams())[0] for i, wants in enumerate(kinds)]
    parts = [(i, 0, len(PROMPTS[i])) for i in range(len(kinds))]
    result: StepResult = runner.run(plan(*parts, new=new))
    return result


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_that_generate_and_rows_that_are_embedded_share_a_step(
    tmp_path: Path, kernels: str
) -> None:
    folder = write_tiny_model(tmp_path, "qwen3")
    write_sentence_files(folder, pooling={"pooling_mode_lasttoken": True})
    tokens = run_beside(load(folder, kernels=kernels)[0], [False] * 5).token_ids
    vectors = run_beside(load(folder, kernels=kernels)[0], [True] * 5).embeddings
    both = run_beside(load(folder, kernels=kernels)[0], [True, False, True, False, True])
    assert both.token_ids == [None, tokens[1], None, tokens[3], None]
    assert both.embeddings.keys() == {0, 2, 4}
    for i, vector in both.embeddings.items():
        np.testing.assert_allclose(numbers(vector), numbers(vectors[i]), 0, 1e-5)


def test_the_last_token_may_be_computed_in_a_step_of_its_own(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "qwen3")
    write_sentence_files(folder, pooling={"pooling_mode_lasttoken": True})
    runner, _ = load(folder)
    whole = numbers(embed(runner, [3])[0])
    first = runner.run(plan((3, 0, 25), new=rows([3])))
    assert (first.token_ids, first.embeddings) == ([None], {})
    rest = runner.run(plan((3, 25, 15)))
    np.testing.assert_allclose(numbers(rest.embeddings[3]), whole, 0, 1e-5)


def test_a_mean_over_tokens_of_another_step_is_refused(tmp_path: Path) -> None:
    runner, _ = load(write_encoder(tmp_path, files=True))
    runner.run(plan((3, 0, 25), new=rows([3])))
    with pytest.raises(ValueError, match="must be computed in one step"):
        runner.run(plan((3, 25, 15)))


def test_a_model_without_the_files_makes_no_embeddings(tmp_path: Path) -> None:
    runner, loaded = load(write_tiny_model(tmp_path, "qwen3"))
    assert (loaded.embedding_size, loaded.generates, loaded.whole_prompt) == (None, True, False)
    with pytest.raises(ValueError, match="the model makes no embeddings"):
        runner.run(plan((1, 0, 7), new=rows([1])))


@pytest.mark.parametrize("kernels", KERNELS)
def test_numbers_that_are_none_fail_their_row_alone(tmp_path: Path, kernels: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_encoder(tmp_path, files=True)
    path = folder / "model.safetensors"
    arrays = load_file(path)
    arrays["embeddings.word_embeddings.weight"][PROMPTS[1][2]] = 3e38  # its variance is infinite
    save_file(arrays, path)
    runner, _ = load(folder, kernels=kernels)
    others = [i for i in range(5) if PROMPTS[1][2] not in PROMPTS[i]]
    assert others
    parts = [(i, 0, len(PROMPTS[i])) for i in (1, *others)]
    result = runner.run(plan(*parts, new=rows([1, *others])))
    assert result.errors == {1: "numerical_error"}
    assert result.embeddings.keys() == set(others)


def test_the_longest_sequence_is_what_the_files_say(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    write_sentence_files(folder, transformer={"max_seq_length": 60})
    assert load(folder)[1].max_model_len == 60
    assert load(folder, max_model_len=50)[1].max_model_len == 50
    assert load(folder, max_model_len=70)[1].max_model_len == 60
    (folder / "modules.json").unlink()
    assert load(folder)[1].max_model_len == 98


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_whole_prompt_fits_into_a_step_however_small_the_budget(
    tmp_path: Path, kernels: str
) -> None:
    runner, _ = load(
        write_encoder(tmp_path, files=True), kernels=kernels, token_budget=16, max_batch_size=2
    )
    assert len(embed(runner, [3])[0]) == 4 * 48


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    sizes = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 47}
    write_sentence_files(folder, pooling=sizes)
    with pytest.raises(
        ModelFolderError, match="pools vectors of 47 numbers, the network's have 48"
    ):
        load(folder)


def test_an_operator_is_told_what_is_not_used_and_what_is_not_said(tmp_path: Path) -> None:
    from shoal.checkpoint.open import open_model

    folder = write_encoder(tmp_path, made_up=5)
    remarks = check_model(open_model(folder), EngineConfig(models=(), kernels="torch"))
    assert [remark.partition(" ")[0] for remark in remarks] == ["keys", "tensors", tmp_path.name]
    assert "made_up" in remarks[0]
    assert "pooler.dense.weight" in remarks[1]
    assert "the mean of the tokens' vectors, not normalized" in remarks[2]
    settings = {"prompts": {"query": "query: "}}
    write_sentence_files(folder, settings=settings)
    remarks = check_model(open_model(folder), EngineConfig(models=(), kernels="torch"))
    assert "names prompts (query)" in remarks[2]


# --- pooling by itself ---------------------------------------------------------------------------


def test_pooling_of_known_vectors() -> None:
    vectors = np.array([[3, 0], [1, 4], [2, 8]], np.float32)
    assert pooled(EmbeddingSpec("mean"), vectors).tolist() == [2, 4]
    assert pooled(EmbeddingSpec("mean", normalized=True), vectors) == pytest.approx(
        [2 / 20**0.5, 4 / 20**0.5]
    )
    assert pooled(EmbeddingSpec("first", normalized=True), vectors[:1]).tolist() == [1, 0]
    assert pooled(EmbeddingSpec("last", normalized=True), 0 * vectors[:1]).tolist() == [0, 0]


def test_the_order_of_additions_does_not_depend_on_where_vectors_lie() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 37)).astype(np.float32)
    wanted = vectors[0].copy()
    for row in vectors[1:]:
        wanted += row
    around = np.concatenate((vectors[:5], vectors, vectors[:3]))
    for found in (vectors, around[5:-3], np.asfortranarray(vectors)):
        np.testing.assert_array_equal(
            pooled(EmbeddingSpec("mean"), found), wanted / np.float32(200)
        )


def test_which_tokens_are_pooled() -> None:
    assert list(pooled_tokens(EmbeddingSpec("mean"), 4)) == [0, 1, 2, 3]
    assert list(pooled_tokens(EmbeddingSpec("first"), 4)) == [0]
    assert list(pooled_tokens(EmbeddingSpec("last"), 4)) == [3]


def test_an_embedding_is_little_endian_float32(tmp_path: Path) -> None:
    runner, loaded = load(write_encoder(tmp_path, files=True))
    vector = embed(runner, [1])[0]
    assert len(vector) == 4 * (loaded.embedding_size or 0)
    assert np.linalg.norm(numbers(vector)) == pytest.approx(1, abs=1e-5)
