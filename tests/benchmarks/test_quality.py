"""What the measurement of formats writes: a folder with a file's numbers, and quality.json."""

from pathlib import Path

import numpy as np
import pytest

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.open import open_model
from tests.benchmarks.bench_quality import quality
from tests.benchmarks.dequantized_folder import write_dequantized
from tests.checkpoint.test_gguf import content
from tests.fakes.gguf_files import write_gguf


@pytest.mark.parametrize("stored", ["Q4_1", "Q8_0"])
def test_a_dequantized_folder_has_the_numbers_of_the_file(stored: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", content(), stored=stored)
    write_dequantized(file, tmp_path / "folder")
    files, folder = open_model(file), open_model(tmp_path / "folder")
    found = folder.tensors(lambda done: None)
    wanted = files.tensors(lambda done: None)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == "F32"
        np.testing.assert_array_equal(found[name].array, dequantize(tensor))
    assert {**files.config, "torch_dtype": "float32"} == folder.config
    assert folder.generation_config == files.generation_config
    assert folder.tokenizer.settings == files.tokenizer.settings


def test_quality_compares_integer_formats_with_bfloat16() -> None:
    figures = {name: {"accuracy": value} for name, value in
               [("bfloat16", 0.5), ("as stored", 0.49), ("int8", 0.48), ("int4", 0.4)]}  # fmt: skip
    found = quality(figures)
    assert found == {
        "int8": {"accuracy": {"full": 0.5, "int8": 0.48}},
        "int4": {"accuracy": {"full": 0.5, "int4": 0.4}},
    }
