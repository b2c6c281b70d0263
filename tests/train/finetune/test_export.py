"""A whole model that was written: `transformers` loads it, and Shoal, with the logits of its
weights; the base's other files stay as they were, or say the same."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.open import open_model
from shoal.model.loader import load_checkpoint
from shoal.model.spec import Role
from shoal.text.text_model import TextModel, read_text_model
from shoal.train.config import RecipeError
from shoal.train.finetune.companions import make_companions, write_json
from shoal.train.finetune.export import write_model
from shoal.train.finetune.folder import replace_folder
from tests.checkpoint.gguf_cases import CASES as GGUF_CASES
from tests.checkpoint.gguf_cases import network, written
from tests.checkpoint.gguf_texts import SHARED, varied_texts
from tests.checkpoint.test_gguf_tokenizers import files_of, small_sentencepiece
from tests.fakes.gguf_files import byte_vocabulary, rounded
from tests.fakes.tiny_models import CONFIGS, write_tiny_model
from tests.model.driving import (
    Batch,
    log_probs,
    make_backend,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

transformers = pytest.importorskip("transformers")

SMOLLM2 = Path("models/smollm2.gguf")
TOKEN_IDS = random_ids(90)  # longrope and its like differ from 64 on


def loaded(path: Path) -> Any:
    return load_checkpoint(path, lambda progress: None)


def tensors_of(weights: Mapping[Role, StoredTensor]) -> Iterator[tuple[Role, torch.Tensor]]:
    for role, weight in weights.items():
        yield role, torch.from_numpy(np.array(dequantize(weight)))


def write_again(base: Path, out: Path, **options: Any) -> list[str]:
    """The model as it is."""
    out.mkdir()
    checkpoint = loaded(base)
    return write_model(out, checkpoint, tensors_of(checkpoint.weights), **options)


def reference(folder: Path) -> np.ndarray[Any, Any]:
    return log_probs(reference_logits(reference_model(folder), TOKEN_IDS))


def ours(path: Path) -> np.ndarray[Any, Any]:
    return log_probs(whole_logits(Batch.over(make_backend(path, "torch")), TOKEN_IDS))


@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_computes_the_new_weights(family: str, tmp_path: Path) -> None:
    """The weights of another model of the same config, put into this one's folder."""
    base = write_tiny_model(tmp_path / "base", family, seed=1)
    other = write_tiny_model(tmp_path / "other", family, seed=2)
    (tmp_path / "out").mkdir()
    weights = tensors_of(loaded(other).weights)
    assert write_model(tmp_path / "out", loaded(base), weights) == []
    wanted = reference(other)
    assert np.abs(reference(base) - wanted).max() > 0.1
    np.testing.assert_allclose(reference(tmp_path / "out"), wanted, atol=1e-6)
    np.testing.assert_allclose(ours(tmp_path / "out"), wanted, atol=1e-4)
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "out" / name).read_bytes()) == json.loads(files[name])


@pytest.mark.parametrize("given", ["stored", "asked for"])
def test_weights_are_rounded_to_the_bases_format_or_the_one_asked_for(
    tmp_path: Path, given: str
) -> None:
    stored: Any = "BF16" if given == "stored" else "F32"
    base = write_tiny_model(tmp_path / "base", stored=stored)
    checkpoint = loaded(base)
    (tmp_path / "out").mkdir()
    weights = [(role, weight * 1.001) for role, weight in tensors_of(checkpoint.weights)]
    dtype = None if given == "stored" else torch.bfloat16
    write_model(tmp_path / "out", checkpoint, weights, dtype)
    after = loaded(tmp_path / "out").weights
    for role, weight in weights:
        assert after[role].dtype == "BF16"
        assert (dequantize(after[role]) == weight.bfloat16().float().numpy()).all()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {**json.loads((base / "config.json").read_text()), "torch_dtype": "bfloat16"}


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    replace_folder(tmp_path / "out", lambda folder: write_model(
        folder, loaded(base), tensors_of(loaded(base).weights)))  # fmt: skip
    before = (tmp_path / "out" / "lock.json").read_bytes()
    weights = dict(tensors_of(loaded(base).weights))
    weights[Role("down.weight", 1)][3, 4] = torch.inf
    with pytest.raises(RecipeError, match=r"layers\.1\.down\.weight holds NaN or infinity after"):
        replace_folder(tmp_path / "out", lambda folder: write_model(
            folder, loaded(base), weights.items()))  # fmt: skip
    assert (tmp_path / "out" / "lock.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_large_weights_are_cut_into_files_with_an_index(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", "gpt2")
    write_again(base, tmp_path / "out", max_file_bytes=30_000)
    names = [path.name for path in (tmp_path / "out").glob("*.safetensors")]
    assert len(names) > 2
    assert "model-00001-of-" in min(names)
    np.testing.assert_allclose(reference(tmp_path / "out"), reference(base), atol=1e-6)
    np.testing.assert_allclose(ours(tmp_path / "out"), reference(base), atol=1e-4)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)


def test_a_folders_own_files_are_copied_and_strange_ones_told(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    more = {
        "special_tokens_map.json": '{"eos_token": "<|end|>"}',
        "chat_template.jinja": "{{ messages[0].content }}",
        "additional_chat_templates/rag.jinja": "{{ documents }}",
        "merges.txt": "#version: 0.2\n",
        "LICENSE": "Apache",
        "README.md": "# base",
        "MODEL.md": "# base",
        "quality.json": "{}",
        ".gitattributes": "x",
        "model.safetensors.index.json": "{}",
        "modeling_tiny.py": "import os",
        "onnx/model.onnx": "x",
    }
    for name, text in more.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    left_out = write_again(base, tmp_path / "out")
    assert left_out == ["modeling_tiny.py", "onnx"]
    out = tmp_path / "out"
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    text = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    copied = {*text, "special_tokens_map.json", "chat_template.jinja", "merges.txt", "LICENSE",
              "additional_chat_templates/rag.jinja"}  # fmt: skip
    assert found == copied | {"config.json", "model.safetensors"}
    for name in copied:
        assert (out / name).read_bytes() == (base / name).read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in out.glob("*.*")} == {0o666 & ~umask}


# --- a base that is one file ----------------------------------------------------------------------


@pytest.mark.parametrize("name", GGUF_CASES)
def test_a_folder_made_of_a_gguf_file_has_its_logits(name: str, tmp_path: Path) -> None:
    case = GGUF_CASES[name]
    metadata = {**case.metadata, **byte_vocabulary()}
    if "vocab_size" in metadata:
        metadata["vocab_size"] = 262
    case = replace(case, config={**case.config, "vocab_size": 262}, metadata=metadata)
    stored = "F32" if "," in name else "Q8_0"
    model = network(case)
    rounded(model, stored)
    path = written(case, model, tmp_path / "tiny.gguf", stored)
    assert write_again(path, tmp_path / "out", dtype=torch.float32) == []
    wanted = log_probs(reference_logits(model, TOKEN_IDS))
    np.testing.assert_allclose(reference(tmp_path / "out"), wanted, atol=1e-4)
    assert (ours(tmp_path / "out") == ours(path)).all()


def test_a_quantized_file_becomes_bfloat16(tmp_path: Path) -> None:
    case = GGUF_CASES["qwen2"]
    metadata = {**case.metadata, **byte_vocabulary()}
    case = replace(case, config={**case.config, "vocab_size": 262}, metadata=metadata)
    path = written(case, network(case), tmp_path / "tiny.gguf", "Q4_1")
    write_again(path, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    before, after = loaded(path).weights, loaded(tmp_path / "out").weights
    assert {weight.dtype for weight in after.values()} == {"BF16"}
    for role, weight in before.items():
        np.testing.assert_allclose(dequantize(after[role]), dequantize(weight), rtol=2**-8)


def write_text_side(files: Any, out: Path) -> TextModel:
    """What Shoal reads of the text files that are made of a GGUF file."""
    out.mkdir()
    write_json(out / "config.json", make_companions(files, out))
    return read_text_model(open_model(out), "tiny")


VOCABULARIES: dict[str, dict[str, Any]] = {
    "bytes": byte_vocabulary(),
    "bytes, no chat": byte_vocabulary(chat=False),
    "several templates, ends and padding": byte_vocabulary()
    | {
        "tokenizer.ggml.eot_token_id": 260,
        "tokenizer.ggml.padding_token_id": 258,
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    },
    "begins with the start token": byte_vocabulary() | {"tokenizer.ggml.pre": "llama-bpe"},
    "an end beyond the tokens": byte_vocabulary() | {"tokenizer.ggml.eot_token_id": 9999},
    "sentencepiece": small_sentencepiece(),
    "sentencepiece without a prefix, with an end": small_sentencepiece(
        add_space_prefix=False, add_bos_token=False, add_eos_token=True
    ),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_text_side_of_a_gguf_file_stays_as_it_was(name: str, tmp_path: Path) -> None:
    files = files_of(tmp_path, VOCABULARIES[name])
    compare_text_sides(files, tmp_path / "out", ["ab bab", "the <|user|>th", "A<|x|> a", ""])


def compare_text_sides(files: Any, out: Path, texts: list[str]) -> None:
    before, after = read_text_model(files, "tiny"), write_text_side(files, out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for text in texts:
        ids = before.tokenizer.encode(text)
        assert after.tokenizer.encode(text) == ids
        assert tokenizer(text)["input_ids"] == ids
        bare = before.tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == bare
        assert after.tokenizer.decode(ids) == before.tokenizer.decode(ids)
    assert after.tokenizer.special_ids == before.tokenizer.special_ids
    assert after.tokenizer.special_tokens == before.tokenizer.special_tokens
    assert after.tokenizer.vocab_size == before.tokenizer.vocab_size
    assert after.end_token_ids == before.end_token_ids
    assert after.start_token_id == before.start_token_id
    assert after.defaults == before.defaults
    names = ("bos_token", "eos_token", "pad_token")
    assert [getattr(after, key) for key in names] == [getattr(before, key) for key in names]
    assert after.chat.source == before.chat.source
    assert open_model(out).chat_templates == files.chat_templates
    for key in names:
        assert getattr(tokenizer, key) == getattr(before, key)
    if before.chat.source is not None:
        messages = [{"role": "user", "content": "Hi"}]
        options: dict[str, Any] = {"given": {}, "add_generation_prompt": True, "max_chars": 9999}
        rendered = [
            chat.render(messages, continue_final_message=False, **options)
            for chat in (before.chat, after.chat)
        ]
        assert rendered[0] == rendered[1]
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert theirs == rendered[0].text


def test_what_only_the_metadata_says_does_not_go_into_the_config(tmp_path: Path) -> None:
    files = files_of(tmp_path, byte_vocabulary() | {"something.new": 7})
    write_text_side(files, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not [key for key in config if "." in key]
    assert (config["bos_token_id"], config["pad_token_id"]) == (256, None)


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.exists(), reason="needs models/smollm2.gguf: shoal pull smollm2")
def test_smollm2_as_a_folder(tmp_path: Path) -> None:
    files = open_model(SMOLLM2)
    texts = list(varied_texts()[::11]) if SHARED.is_dir() else ["Hello there", "def f(x): 12"]
    compare_text_sides(files, tmp_path / "text", texts)
    write_again(SMOLLM2, tmp_path / "out", dtype=torch.float32)
    token_ids = random_ids(40, vocab=49152)
    theirs = reference_logits(reference_model(tmp_path / "out"), token_ids)
    own = whole_logits(Batch.over(make_backend(SMOLLM2, "torch")), token_ids)
    np.testing.assert_allclose(theirs, own, atol=2e-4)  # logits of 30 layers, up to 30 large
    defaults = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (defaults.eos_token_id, defaults.temperature, defaults.top_p) == ([2, 0], 0.2, 0.9)
