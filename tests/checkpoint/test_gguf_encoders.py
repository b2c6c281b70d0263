"""Encoders in GGUF files: written as llama.cpp's converter does it, they give the final vectors of
`transformers`; pooling and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.loader import load_checkpoint
from tests.fakes.gguf_files import converted, rounded, write_gguf
from tests.fakes.tiny_encoders import ENCODERS, make_encoder
from tests.model.driving import BACKENDS
from tests.model.encoder_cases import TOKENS, ours, theirs

SIZES = {"hidden_size": 64, "intermediate_size": 96}
DISTIL = {"dim": 64, "hidden_dim": 96}


def written(
    path: Path, kind: str = "bert", stored: str = "F32", **metadata: Any
) -> tuple[Path, Any]:
    """A file and the network that is in it; `metadata` beyond what is always written."""
    network = make_encoder(ENCODERS[kind] | (DISTIL if kind == "distilbert" else SIZES))
    rounded(network, stored)
    if hasattr(network, "pooler"):
        network.pooler = None  # the converter leaves it out
    config = network.config
    offset = 2 if "roberta" in kind else 0
    position = config.max_position_embeddings - offset
    found = {
        "attention.causal": False,
        "context_length": position,
        "attention.layer_norm_epsilon": 1e-12,
        "feed_forward_length": 96,
        **metadata,
    }
    content = converted(network, "bert", **found)
    table = content.tensors["position_embd.weight"]
    assert isinstance(table, np.ndarray)
    content.tensors["position_embd.weight"] = table[offset:]
    return write_gguf(path, content, stored=stored), network


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", ["F32", "Q8_0"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_final_vectors_are_those_of_the_network_that_was_converted(
    tmp_path: Path, kind: str, stored: str, backend: str
) -> None:
    path, network = written(tmp_path / "tiny.gguf", kind, stored)
    found = load_checkpoint(path, lambda share: None)
    assert (found.unused_keys, found.unused_tensors) == ([], [])
    np.testing.assert_allclose(ours(found, backend, TOKENS), theirs(network, TOKENS), 0, 1e-4)


@pytest.mark.parametrize(
    ("kind", "pooling"), [(None, None), (0, None), (1, "mean"), (2, "first"), (3, "last")]
)
def test_pooling_is_read(tmp_path: Path, kind: int | None, pooling: str | None) -> None:
    more = {} if kind is None else {"pooling_type": kind}
    files = open_model(written(tmp_path / "tiny.gguf", **more)[0])
    assert "bert.pooling_type" not in files.config
    found = files.embedding
    assert (found and found.pooling) == pooling
    assert found is None or found.normalized
    spec = load_checkpoint(files.path, lambda share: None).spec
    assert spec.embedding is not None
    assert spec.embedding.pooling == (pooling or "mean")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"pooling_type": 4}, r"bert\.pooling_type must be 0 \(none\), 1 \(mean\), 2"),
        ({"attention.causal": True}, r"bert\.attention\.causal must be false"),
        ({"attention.causal": ...}, r"bert\.attention\.causal must be false"),
        ({"attention.head_count_kv": 2}, r"bert\.attention\.head_count_kv must be 4"),
        ({"rope.freq_base": 5.0}, r"bert\.rope\.freq_base must be left out"),
    ],
)
def test_what_cannot_be_computed_right_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    path, _ = written(tmp_path / "tiny.gguf", **metadata)
    with pytest.raises(ModelFolderError, match=words):
        load_checkpoint(path, lambda share: None)
