"""What every model folder in the repository promises: it computes what `transformers` computes, its
files are the locked ones, and its card says what a reader needs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.catalogue import read_catalogue
from shoal.kernels import native
from shoal.protocol.messages import ModelSource
from shoal.text.text_model import load_text_model
from tests.model.driving import Batch, greedy, make_backend

_MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDERS = sorted(
    path.parent
    for path in _MODELS.glob("*/model.safetensors")
    if path.parent.name not in read_catalogue(_MODELS)  # those were pulled
)
NUM_PROMPTS, NUM_TOKENS, NUM_BLOCKS = 50, 48, 700

_NAMES = ("Lily", "Tom", "a small bird", "the old farmer", "Mia and her dog")
_DEEDS = (
    "went to the park with a red ball",
    "wanted to bake a cake for grandma",
    "found a shiny key under the bed",
    "was afraid of the dark forest",
    "saw a boat on the lake",
)
_ASKED = (
    "play some jazz by Porter Wagoner",
    "book a table for four at Luigi's in Boston tomorrow",
    "what will the weather be like in Oslo on friday",
    "add this song to my running playlist",
    "my card was declined at the shop",
    "tell me a story about a fox who could not sleep",
    "how many ounces are in a pound",
    "rate the last book five stars",
    "why is there a fee on my transfer",
    "find a bus from Fresno to San Diego",
    "set a timer for ten minutes",
    "Tell me a story about two friends.",
)


def fifty_prompts(tokenizer: Any) -> list[list[int]]:
    """Half plain beginnings of a text, half requests through the chat template."""
    plain = [f"One day, {name} {deed}." for name in _NAMES for deed in _DEEDS]
    asked = [*_ASKED, *(request.upper() for request in _ASKED), "hello"]
    ids = [tokenizer(text)["input_ids"] for text in plain]
    for request in asked:
        messages = [{"role": "user", "content": request}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(ids) == NUM_PROMPTS
    return ids


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def peer(request: Any) -> tuple[Path, list[list[int]], Any]:
    """(folder, prompts, the model in transformers)."""
    transformers = pytest.importorskip("transformers")
    folder: Path = request.param
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return folder, fifty_prompts(tokenizer), model


@pytest.mark.parametrize("kind", ["torch", "native"])
def test_greedy_text_of_fifty_prompts_equals_that_of_transformers(
    peer: tuple[Path, list[list[int]], Any], kind: str
) -> None:
    if kind == "native" and not native.available():
        pytest.skip("the native library is not built")
    folder, prompts, model = peer
    batch = Batch.over(make_backend(folder, kind, num_blocks=NUM_BLOCKS), num_blocks=NUM_BLOCKS)
    ours: list[list[int]] = []
    for start in range(0, NUM_PROMPTS, 25):
        ours += greedy(batch, prompts[start : start + 25], NUM_TOKENS)
    for prompt, found in zip(prompts, ours, strict=True):
        best, second = _two_best(model, prompt, found)
        chosen = best[np.arange(NUM_TOKENS), 0].astype(int)
        if found != chosen.tolist():  # only ever at a tie, and we are told so
            place = int(np.argmax(np.array(found) != chosen))
            gap = best[place, 1] - second[place]
            raise AssertionError(f"token {place} of {prompt} differs; transformers' gap is {gap}")


def _two_best(model: Any, prompt: list[int], found: list[int]) -> tuple[Any, Any]:
    """transformers' best (id, logit) and second best logit before each of the tokens `found`.

    One pass over prompt and answer: as long as both agree it is greedy decoding of transformers.
    """
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + found[:-1]])).logits[0, len(prompt) - 1 :]
    top = logits.topk(2)
    pairs = np.stack([top.indices[:, 0].numpy(), top.values[:, 0].numpy()], axis=1)
    return pairs, top.values[:, 1].numpy()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_chat_is_rendered_as_transformers_renders_it(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_text_model(ModelSource(folder.name, str(folder)))
    for messages in (
        [{"role": "user", "content": "Tell me a story."}],
        [{"role": "system", "content": "snips"}, {"role": "user", "content": "  play <|end|> x "}],
        [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": "Ünï 東京"},
        ],
    ):
        wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        found = ours.chat.render(
            messages,
            given={},
            add_generation_prompt=True,
            continue_final_message=False,
            max_chars=10_000,
        )
        assert found.text == wanted


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_lock_names_the_files_that_are_there(folder: Path) -> None:
    locked = json.loads((folder / "lock.json").read_text())["files"]
    present = {path.name for path in folder.iterdir()} - {"MODEL.md", "lock.json"}
    assert set(locked) == present
    for name, entry in locked.items():
        content = (folder / name).read_bytes()
        assert len(content) == entry["bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_card_has_every_section_and_the_exact_command(folder: Path) -> None:
    card = (folder / "MODEL.md").read_text()
    headings = {line[3:].strip().lower() for line in card.splitlines() if line[:3] == "## "}
    for wanted in ("use", "quality", "limits", "data", "recipe"):
        assert wanted in headings, f"no section {wanted!r} in {headings}"
    assert "| Licence |" in card
    assert any("samples" in heading for heading in headings)
    assert f"shoal train --recipe models/recipes/{folder.name}" in card


def test_both_default_models_are_there_and_small_together() -> None:
    assert [folder.name for folder in FOLDERS] == ["minnow", "pilotfish"]
    files = (path for folder in FOLDERS for path in folder.iterdir())
    assert sum(path.stat().st_size for path in files) <= 64 * 2**20
