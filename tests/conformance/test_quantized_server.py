"""`shoal serve --quantize int8` on a real trained model: same story, told as int8 everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shoal.kernels import native
from tests.conformance.served import ServerProcess, serve_process

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "stories260k"
pytestmark = [
    pytest.mark.skipif(
        not STORIES.is_dir(), reason="needs ../shared/data/models/stories260k beside the repository"
    ),
    pytest.mark.skipif(not native.available(), reason="native kernels are not built"),
]
LOSS = {"perplexity": {"full": 4.0, "int8": 4.01}}
STORY: dict[str, Any] = {
    "model": "stories", "prompt": "Once upon a time", "max_tokens": 60, "temperature": 0,
    "logprobs": 1,
}  # fmt: skip


def complete(server: ServerProcess, **wishes: Any) -> dict[str, Any]:
    answer = httpx.post(server.url + "/v1/completions", json={**STORY, **wishes}, timeout=60)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_an_int8_server_tells_nearly_the_same_story_and_says_what_it_computes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "stories"
    shutil.copytree(STORIES, folder)
    folder.chmod(0o755)
    (folder / "quality.json").write_text(json.dumps({"int8": LOSS}))
    with serve_process(folder, "--kernels", "native") as server:
        listed = server.get("/v1/models").json()["data"][0]
        assert (listed["dtype"], listed["quantization"]) == ("float32", "none")
        assert listed["quality_loss"] is None
        whole_bytes = listed["weight_bytes"]
        whole = complete(server)
        story = STORY["prompt"] + whole["text"]
        whole_values = complete(server, prompt=story, echo=True, max_tokens=1)["logprobs"]
    with serve_process(folder, "--kernels", "native", "--quantize", "int8") as server:
        listed = server.get("/v1/models").json()["data"][0]
        assert (listed["dtype"], listed["quantization"]) == ("int8", "int8")
        assert listed["quality_loss"] == LOSS
        assert listed["weight_bytes"] < 0.5 * whole_bytes
        assert server.get("/version").json()["models"]["stories"]["dtype"] == "int8"
        small = complete(server)
        small_values = complete(server, prompt=story, echo=True, max_tokens=1)["logprobs"]
    assert small["text"][:12] == whole["text"][:12]
    assert small["text"].count(" ") > 20  # words, not noise
    # Its own story is nearly as likely to it as the whole model's is to that one.
    gap = np.mean(whole["logprobs"]["token_logprobs"]) - np.mean(
        small["logprobs"]["token_logprobs"]
    )
    assert abs(gap) < 0.25
    assert whole_values["tokens"][:-1] == small_values["tokens"][:-1]
    difference = np.abs(
        np.subtract(whole_values["token_logprobs"][1:-1], small_values["token_logprobs"][1:-1])
    )
    assert 0 < difference.max() < 1.0
    assert difference.mean() < 0.1


def test_int8_with_pytorch_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shutil.copytree(STORIES, tmp_path / "stories")
    flags = ("--kernels", "torch", "--quantize", "int8")
    with (
        pytest.raises(AssertionError, match=r"(?s)quantize=int8 needs the native CPU kernels"),
        serve_process(tmp_path / "stories", *flags),
    ):
        pass
