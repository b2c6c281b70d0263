"""all-MiniLM-L6-v2 as it was published (`shoal pull minilm`): embeddings as of `transformers`, and
texts that mean the same beside each other."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.checkpoint.catalogue import beside_code
from shoal.checkpoint.open import open_model
from shoal.kernels import native
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.protocol.params import OutputParams
from shoal.runner.load import load_runner
from shoal.text.tokenizer import Tokenizer
from tests.unit.runner.building import new_row, plan

FOLDER = beside_code() / "minilm"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not here: shoal pull minilm")

PAIRS = [
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("How do I bake bread at home?", "Recipe for a homemade loaf"),
    ("The stock market fell sharply today.", "Shares lost a lot of value this afternoon."),
    ("He plays the violin in an orchestra.", "A musician performs with a string instrument."),
    ("Paris is the capital of France.", "Which city is France governed from?"),
    ("My computer does not start any more.", "The laptop will not boot."),
    ("Rain is expected over the weekend.", "The forecast says it will be wet on Saturday."),
    ("She won the race by two seconds.", "The runner came first, just ahead of the others."),
    ("Vaccines protect against disease.", "Immunization keeps people from falling ill."),
    ("The museum opens at nine.", "Opening hours of the gallery"),
]
OTHERS = [
    "", "a", "1 + 1 = 2", "Straße, café, naïve, Zürich", "日本語の文章です。",
    "def f(x): return x * 2", "🙂 emoji 🚀 and more", "UPPER CASE SHOUTING", "...!?",
    "https://example.org/a?b=c&d=e",
    "\tTabs\nand\n\nlines  and   spaces ", "Привет, мир", "0x1F4A9 0b1010 3.14159e-10",
    "supercalifragilisticexpialidocious", "[CLS] spelled [SEP] tokens [MASK]", "<b>bold</b>",
    "word " * 180, "The quick brown fox jumps over the lazy dog.", "to be or not to be",
    "Ünïcödé çhàràctérs", "a-b_c.d,e;f:g", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया",
    "one two three four five six seven eight nine ten", "x" * 150, "it's don't won't can't",
    "SELECT name FROM people WHERE age > 30;", "E = mc^2", "100% of $5 is €4.50",
]  # fmt: skip
SENTENCES = [text for pair in PAIRS for text in pair] + OTHERS
assert len(SENTENCES) == 50


@cache
def tokens() -> list[list[int]]:
    tokenizer = Tokenizer(open_model(FOLDER).tokenizer)
    return [tokenizer.encode(text) for text in SENTENCES]


@cache
def embeddings(kernels: str, **config: Any) -> NDArray[np.float32]:
    """[50, 384]"""
    settings = EngineConfig(models=(), num_threads=1, kernels=kernels, **config)
    source = ModelSource("minilm", str(FOLDER))
    runner, loaded, *_ = load_runner(source, settings, 64 << 20, lambda _: None)
    assert (loaded.embedding_size, loaded.max_model_len, loaded.generates) == (384, 256, False)
    found: dict[int, bytes] = {}
    for seq_id, ids in enumerate(tokens()):
        blocks = list(range(-(-len(ids) // 16)))
        row = new_row(seq_id, ids, blocks, output=OutputParams(embedding=True))
        step = plan((seq_id, 0, len(ids)), new=[row], released=[seq_id - 1])
        found |= runner.run(step).embeddings
    return np.stack([np.frombuffer(found[index], "<f4") for index in range(len(SENTENCES))])


def nearest(vectors: NDArray[np.float32]) -> list[int]:
    """Of each first text of a pair: which of the second ones."""
    firsts, seconds = vectors[: 2 * len(PAIRS) : 2], vectors[1 : 2 * len(PAIRS) : 2]
    found: list[int] = (firsts @ seconds.T).argmax(1).tolist()
    return found


KERNELS = [
    pytest.param("torch", marks=pytest.mark.slow),
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="not built")),
]


@pytest.mark.parametrize("kernels", KERNELS)
def test_embeddings_of_fifty_texts_are_those_of_transformers(kernels: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network = transformers.AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for text, ids, found in zip(SENTENCES, tokens(), embeddings(kernels), strict=True):
        assert tokenizer(text)["input_ids"] == ids, text
        with torch.inference_mode():
            states = network(torch.tensor([ids])).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        np.testing.assert_allclose(found, wanted, 0, 1e-4, err_msg=text)


@pytest.mark.parametrize("kernels", KERNELS)
def test_texts_that_mean_the_same_are_nearest(kernels: str) -> None:
    assert nearest(embeddings(kernels)) == list(range(len(PAIRS)))


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
@pytest.mark.parametrize(("quantize", "least"), [("int8", 0.998), ("int4", 0.9)])
def test_integers_keep_what_is_near(quantize: str, least: float) -> None:
    whole, rounded = embeddings("native"), embeddings("native", quantize=quantize)
    assert nearest(rounded) == list(range(len(PAIRS)))
    assert (whole * rounded).sum(1).min() > least
