"""One GGUF file as a model: what it offers, what is refused by name, and that no damage to its
bytes does more than a clean error."""

import json
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from shoal.checkpoint.blocks import dequantize, has_finite_scales
from shoal.checkpoint.files import BLOCKS, StoredTensor
from shoal.checkpoint.gguf import GgufFile
from shoal.checkpoint.gguf_header import MAX_ENTRIES, GgufHeader, read_header
from shoal.checkpoint.open import open_model
from shoal.checkpoint.quality import read_quality_loss
from shoal.errors import ModelFolderError
from shoal.model.registry import read_model
from shoal.model.weights import load_weights, num_parameters, stored_format
from shoal.protocol.messages import EngineConfig
from shoal.runner.load import check_model
from shoal.text.text_model import read_text_model
from tests.fakes.gguf_files import GgufContent, Ready, byte_vocabulary, write_gguf
from tests.fakes.tiny_models import write_lock

CPU = EngineConfig(models=(), device="cpu")
SIZES: dict[str, Any] = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
}
SHAPES = {
    "token_embd": (262, 64),
    "output_norm": (64,),
    "blk.0.attn_norm": (64,),
    "blk.0.attn_q": (64, 64),
    "blk.0.attn_k": (32, 64),
    "blk.0.attn_v": (32, 64),
    "blk.0.attn_output": (64, 64),
    "blk.0.ffn_norm": (64,),
    "blk.0.ffn_gate": (96, 64),
    "blk.0.ffn_up": (96, 64),
    "blk.0.ffn_down": (64, 96),
}


def content(**metadata: Any) -> GgufContent:
    """A Llama of one layer with a tokenizer. A change to ... takes the key out."""
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal(size) for name, size in SHAPES.items()}
    values = SIZES | byte_vocabulary() | {k.replace("__", "."): v for k, v in metadata.items()}
    values = {key: value for key, value in values.items() if value is not ...}
    return GgufContent("llama", values, dict(tensors))


def read_all(path: Path) -> GgufFile:
    """Everything that a server reads."""
    files = open_model(path)
    assert isinstance(files, GgufFile)
    check_model(files, CPU)
    read_text_model(files, "tiny")
    return files


def refusal(path: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        read_all(path)
    return caught.value.message


# --- what it offers -------------------------------------------------------------------------------


def test_a_file_offers_what_a_folder_does(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content(), stored="Q4_1")
    files = read_all(path)
    assert (files.name, files.config_file) == ("tiny.gguf", f"{tmp_path.name}/tiny.gguf")
    assert files.config["architectures"] == ["LlamaForCausalLM"]
    assert files.config["rms_norm_eps"] == 1e-5  # not the nearest float32
    assert files.weight_bytes == path.stat().st_size
    assert files.created == int(path.stat().st_mtime)
    assert len(files.weights_hash) == 16
    assert files.quality is None
    assert not files.is_locked
    architecture, spec, unused = read_model(files.config, files.config_file)
    weights = load_weights(spec, architecture, files.tensors(lambda progress: None), files.name)
    assert num_parameters(weights) == sum(int(np.prod(size)) for size in SHAPES.values())
    assert stored_format(weights) == "float32"
    assert unused == []


def test_a_lock_that_names_the_file_is_compared(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content())
    unlocked = open_model(path).weights_hash
    write_lock(tmp_path)
    assert open_model(path).is_locked
    assert open_model(path).weights_hash == unlocked
    other = write_gguf(tmp_path / "other.gguf", content())
    assert not open_model(other).is_locked
    path.write_bytes(path.read_bytes() + b"\0")
    assert "tiny.gguf differs from lock.json" in refusal(path)


def test_sidecars_say_what_the_metadata_does_not(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content())
    own = open_model(path).generation_config
    (tmp_path / "generation_config.json").write_text('{"temperature": 2}')  # of another model
    (tmp_path / "tiny.generation_config.json").write_text('{"top_p": 0.9, "bos_token_id": 7}')
    (tmp_path / "tiny.quality.json").write_text(
        '{"Q4_1": {"perplexity": {"full": 15.0, "Q4_1": 15.5}}}'
    )
    files = open_model(path)
    assert files.generation_config == {**own, "top_p": 0.9, "bos_token_id": 7}
    assert files.generation_config_file == f"{tmp_path.name}/tiny.generation_config.json"
    assert read_text_model(files, "tiny").defaults == {"top_p": 0.9}
    loss = {"perplexity": {"full": 15.0, "Q4_1": 15.5}}
    assert read_quality_loss(files, "Q4_1") == loss
    (tmp_path / "tiny.generation_config.json").write_text('{"top_p": 2}')
    assert "tiny.generation_config.json: top_p must be" in refusal(path)
    (tmp_path / "tiny.generation_config.json").write_text("[]")
    assert "tiny.generation_config.json is not a JSON object" in refusal(path)


def test_a_lock_covers_the_sidecars(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content())
    write_lock(tmp_path)
    (tmp_path / "tiny.quality.json").write_text("{}")
    assert "tiny.quality.json is not in lock.json" in refusal(path)


def test_keys_that_nobody_knows_are_named_and_others_ignored(tmp_path: Path) -> None:
    metadata = {"color": "red", "general.license": "mit", "rope.scaling.finetuned": True}
    files = open_model(write_gguf(tmp_path / "tiny.gguf", content(**metadata)))
    (remark,) = check_model(files, CPU)
    assert remark.endswith("keys of " + files.config_file + " that are not used: llama.color")


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"expert_count": 8}, "llama.expert_count must be left out"),
    "a soft cap": ({"attn_logit_softcapping": 30.0}, "llama.attn_logit_softcapping must be left"),
    "not causal": ({"attention__causal": False}, "llama.attention.causal must be left out"),
    "pooling": ({"pooling_type": 4}, "llama.pooling_type must be 0"),
    "a window": ({"attention__sliding_window": 9}, "attention.sliding_window must be left out"),
    "half rotated": ({"rope__dimension_count": 8}, "llama.rope.dimension_count must be 16"),
    "sections": ({"rope__dimension_sections": [4, 4, 0, 0]}, "rope.dimension_sections must be"),
    "a future scaling": ({"rope__scaling__type": "x"}, "rope.scaling.type must be one of none"),
    "factors missing": ({"rope__scaling__type": "longrope"}, "come with rope_factors_short"),
    "two head sizes": ({"attention__value_length": 8}, "attention.value_length must be 16"),
    "no sizes": ({"block_count": ...}, "llama.block_count must be a whole number"),
    "sizes by layer": ({"feed_forward_length": [96, 64]}, "must be the same for every layer"),
    "another vocabulary": ({"vocab_size": 9}, "llama.vocab_size must be 262, the rows"),
    "no eps": ({"attention__layer_norm_rms_epsilon": ...}, "must be a positive number"),
    "a list for a number": ({"rope__freq_base": [1.0, 2.0]}, "rope.freq_base must be a positive"),
    "a part": ({"split__count": 3}, "llama-gguf-split --merge"),
    "an adapter": ({"general__type": "adapter"}, "is a LoRA adapter, not a whole model"),
    "no tokens": ({"tokenizer__ggml__tokens": ...}, "tokenizer.ggml.tokens is missing"),
    "a template of numbers": ({"tokenizer__chat_template": 7}, "chat template 'default' is no"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_results_is_refused_by_name(tmp_path: Path, name: str) -> None:
    changes, sentence = REFUSED[name]
    path = write_gguf(tmp_path / "tiny.gguf", content(**changes))
    if name == "a template of numbers":  # the model serves everything but chats
        (remark,) = read_text_model(read_all(path), "tiny").remarks
        assert sentence in remark
    else:
        assert sentence in refusal(path)


def test_an_unknown_architecture_names_those_that_are_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", GgufContent("mamba"))
    sentence = refusal(path)
    assert "general.architecture is 'mamba', which Shoal cannot read; it reads llama, " in sentence


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "IQ4_XS", "MXFP4"])
def test_a_type_that_is_not_read_is_refused_with_a_way_out(tmp_path: Path, kind: str) -> None:
    made = content()
    num_bytes = gguf.GGML_QUANT_SIZES[Kind[kind]][1]
    made.tensors["extra.weight"] = Ready(np.zeros((2, num_bytes), np.uint8), kind)
    sentence = refusal(write_gguf(tmp_path / "tiny.gguf", made))
    assert f"tensor 'extra.weight' is stored as {kind}, which Shoal cannot read" in sentence
    assert "Q8_0" in sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("blk.0.attn_norm_2.weight", "tensors are unknown: blk.0.attn_norm_2.weight"),
        ("blk.0.attn_rot_embd.weight", "tensors are unknown"),
        ("blk.9.attn_q.weight", "tensors are unknown: model.layers.9.self_attn.q_proj.weight"),
        ("rope_freqs.weight", "longrope: short_factor must be a list of 8"),
    ],
)
def test_a_tensor_that_does_not_belong_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    made = content()
    made.tensors[name] = np.ones(4)
    found = refusal(write_gguf(tmp_path / "tiny.gguf", made))
    assert sentence.removeprefix("longrope: ") in found


def test_infinite_scales_are_refused(tmp_path: Path) -> None:
    made = content()
    blocks = gguf.quants.quantize(np.ones((64, 64), np.float32), Kind.Q8_0)
    blocks[3, 34:36] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    made.tensors["blk.0.attn_q.weight"] = Ready(blocks, "Q8_0")
    sentence = refusal(write_gguf(tmp_path / "tiny.gguf", made))
    assert "tensors hold NaN or infinity: model.layers.0.self_attn.q_proj.weight" in sentence


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_scales_of_every_type_are_looked_at(kind: str) -> None:
    """Where they are is found by trial: those places make the numbers infinite."""
    block = BLOCKS[kind]
    rng = np.random.default_rng(1)
    for at in range(0, block.num_bytes, 2):
        row = rng.integers(1, 100, (1, block.num_bytes), np.uint8)
        for scale in (0, 2, 208) if block.numbers == 256 else (0, 2):
            if scale < block.num_bytes:
                row[0, scale : scale + 2] = (0, 1)
        row[0, at : at + 2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
        tensor = StoredTensor(kind, row, "x")
        assert has_finite_scales(tensor) == bool(np.isfinite(dequantize(tensor)).all())


# --- hostile bytes --------------------------------------------------------------------------------


@cache
def small_file() -> bytes:
    return write_gguf(Path(mkdtemp()) / "tiny.gguf", content(), stored="Q4_0").read_bytes()


def header_size(raw: bytes) -> int:
    """Bytes before the weights, whose bits may be anything."""
    weights = sum(tensor.array.nbytes for tensor in _header_of(raw).tensors.values())
    return len(raw) - weights


@cache
def _header_of(raw: bytes) -> GgufHeader:
    path = Path(mkdtemp()) / "x.gguf"
    path.write_bytes(raw)
    return read_header(path)


def outcome(path: Path, raw: bytes) -> bool:
    """Did it load? Anything but a load and a ModelFolderError, or a second of work, fails."""
    path.write_bytes(raw)
    start, message = time.process_time(), ""
    try:
        read_all(path)
    except ModelFolderError as error:
        message = error.message
    assert time.process_time() - start < 1
    assert not message or path.name in message
    return not message


def test_flipped_bits_give_a_load_or_a_clean_error(tmp_path: Path) -> None:
    raw, rng = small_file(), np.random.default_rng(3)
    size = header_size(raw)
    loads = 0
    for _ in range(300):
        flipped = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            # Most of the header is tokens: half of the flips go where the numbers are.
            end = size if rng.random() < 0.5 else 600
            flipped[rng.integers(0, end)] ^= 1 << rng.integers(8)
        loads += outcome(tmp_path / "tiny.gguf", bytes(flipped))
    assert 0 < loads < 300


def test_flipped_bits_of_tensor_entries_give_a_load_or_a_clean_error(tmp_path: Path) -> None:
    raw, rng = small_file(), np.random.default_rng(4)
    start, end = raw.index(b"token_embd.weight") - 8, raw.index(b"blk.0.ffn_down.weight") + 60
    for _ in range(300):
        flipped = bytearray(raw)
        flipped[rng.integers(start, end)] ^= 1 << rng.integers(8)
        outcome(tmp_path / "tiny.gguf", bytes(flipped))


def test_a_cut_at_any_place_is_a_clean_error(tmp_path: Path) -> None:
    raw, rng = small_file(), np.random.default_rng(5)
    for length in (0, 1, 3, 4, 8, 23, 24, *rng.integers(0, len(raw) - 32, 300)):
        assert not outcome(tmp_path / "tiny.gguf", raw[:length])


def test_bits_of_weights_are_theirs_alone(tmp_path: Path) -> None:
    raw = small_file()
    path = tmp_path / "tiny.gguf"
    flipped = bytearray(raw)
    flipped[-200] ^= 1
    assert outcome(path, bytes(flipped))
    before, after = _header_of(raw).tensors, read_header(path).tensors
    different = [n for n in before if not np.array_equal(before[n].array, after[n].array)]
    assert len(different) == 1


def number(value: int, num_bytes: int = 8) -> bytes:
    return value.to_bytes(num_bytes, "little")


def header(*parts: bytes, version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + number(version, 4) + number(tensors) + number(entries) + b"".join(parts)


def text(value: str) -> bytes:
    return number(len(value)) + value.encode()


def entry(name: str, sizes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = b"".join(map(number, sizes))
    return text(name) + number(len(sizes), 4) + dims + number(kind, 4) + number(offset)


HUGE = (1 << 62) + 1
BOMBS: dict[str, tuple[bytes, str]] = {
    "version 1": (header(version=1), "version 1 of the format is not supported"),
    "big endian": (b"GGUF\0\0\0\3" + bytes(40), "it is big endian"),
    "many tensors": (header(tensors=HUGE), "tensors are impossible"),
    "many entries": (header(bytes(8 << 20), entries=MAX_ENTRIES + 1), "entries are impossible"),
    "a long key": (header(number(HUGE), bytes(99), entries=1), "metadata key of"),
    "a long text": (
        header(text("k"), number(8, 4), number(HUGE), bytes(99), entries=1),
        "cut short or damaged",
    ),
    "a long list": (
        header(text("k"), number(9, 4), number(4, 4), number(HUGE), bytes(99), entries=1),
        "'k' has an impossible number of elements",
    ),
    "many texts": (
        header(text("k"), number(9, 4), number(8, 4), number(HUGE), bytes(99), entries=1),
        "'k' has an impossible number of strings",
    ),
    "a list of lists": (
        header(text("k"), number(9, 4), number(9, 4), number(1), bytes(99), entries=1),
        "'k' is an array of arrays",
    ),
    "an unknown type": (
        header(text("k"), number(77, 4), bytes(99), entries=1),
        "'k' has an unknown value type, 77",
    ),
    "neither true nor false": (
        header(text("k"), number(7, 4), b"\2", bytes(99), entries=1),
        "'k' is neither true nor false",
    ),
    "a key twice": (
        header(*[text("k") + number(7, 4) + b"\1"] * 2, bytes(99), entries=2),
        "'k' stands twice",
    ),
    "no UTF-8": (header(number(2), b"\xff\xfe", bytes(99), entries=1), "is not UTF-8"),
    "an odd alignment": (
        header(text("general.alignment"), number(4, 4), number(48, 4), bytes(99), entries=1),
        "general.alignment must be a power of two; it is 48",
    ),
    "no dimension": (header(entry("t", ()), bytes(99), tensors=1), "'t' has 0 dimensions"),
    "five dimensions": (header(entry("t", (1,) * 5), bytes(99), tensors=1), "has 5 dimensions"),
    "an empty tensor": (header(entry("t", (0,)), bytes(99), tensors=1), "impossible shape, [0]"),
    "a product that overflows": (
        header(entry("t", (1 << 33, 1 << 33)), bytes(99), tensors=1),
        "'t' lies outside of the file",
    ),
    "a far offset": (
        header(entry("t", (1,), offset=1 << 40), bytes(99), tensors=1),
        "'t' lies outside of the file",
    ),
    "not aligned": (header(entry("t", (1,), offset=4), bytes(99), tensors=1), "not aligned"),
    "on top of each other": (
        header(entry("a", (64,)), entry("b", (1,), offset=32), bytes(999), tensors=2),
        "overlaps another",
    ),
    "a name twice": (
        header(entry("a", (1,)), entry("a", (1,), offset=32), bytes(999), tensors=2),
        "'a' stands twice",
    ),
    "half a block": (header(entry("t", (33,), 2), bytes(99), tensors=1), "no whole blocks of Q4_0"),
    "an unknown tensor type": (header(entry("t", (1,), 999), bytes(99), tensors=1), "type 999"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_impossible_header_says_what_is_wrong(tmp_path: Path, name: str) -> None:
    raw, sentence = BOMBS[name]
    path = tmp_path / "bomb.gguf"
    path.write_bytes(raw)
    start = time.process_time()
    with pytest.raises(ModelFolderError) as caught:
        read_header(path)
    assert f"{tmp_path.name}/bomb.gguf" in caught.value.message
    assert sentence in caught.value.message
    assert time.process_time() - start < 1


# --- end to end -----------------------------------------------------------------------------------


def test_the_reader_of_the_gguf_package_sees_the_same(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", content(), stored="Q5_1")
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].dtype == tensor.tensor_type.name
        np.testing.assert_array_equal(ours.tensors[tensor.name].array, tensor.data)
    for key, found in ours.metadata.items():
        wanted = theirs.fields[key].contents()
        assert json.dumps(wanted) == json.dumps(
            found.tolist() if isinstance(found, np.ndarray) else found
        ) or np.isclose(wanted, found)
