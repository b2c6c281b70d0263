"""The logit lens of both backends against `transformers`: what the network says when what a layer
leaves goes straight to its head."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.runner.backends.native import NativeBackend
from shoal.runner.inputs import Backend, Float32, Lens, StepInputs
from tests.fakes.tiny_adapters import write_adapter, write_merged
from tests.model.cases import ALL, CASES, write_case
from tests.model.driving import (
    BACKENDS,
    Batch,
    Sequence,
    log_probs,
    make_backend,
    random_ids,
    reference_model,
    whole_logits,
)
from tests.model.family_checks import with_adapter

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NUM_TOKENS = 150
TOLERANCE = 1e-4
DEFAULT = ["opt", "gemma2", "granite"]
"""Heads unlike each other; the others by default against float64 networks in tests/kernels."""


class Looking:
    """A backend whose lens looks at every token with logits."""

    name = "looking"

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.lens: Lens | None = None

    def forward(self, inputs: StepInputs) -> Float32:
        inputs.lens_indices = inputs.logit_indices
        if isinstance(self.backend, NativeBackend):
            head = self.backend.forward_best(inputs, len(inputs.logit_indices))
            logits, self.lens = head.logits, head.lens
        else:
            logits, self.lens = self.backend.forward_lens(inputs)  # type: ignore[attr-defined]
        return logits


def reference_lens(network: Any, token_ids: list[int]) -> list[Float32]:
    """Logits [n, vocab] after each layer: the last layer is made to leave what that one left."""
    (layers,) = [
        module
        for module in network.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == network.config.num_hidden_layers
        and any("norm" in name or "ln" in name for name, _ in module[0].named_modules())
    ]
    left: list[Any] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        left.append(output)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    with torch.inference_mode():
        network(torch.tensor([token_ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        found = []
        for output in list(left):
            hook = layers[-1].register_forward_hook(lambda module, args, _, out=output: out)
            logits = network(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()
            hook.remove()
            found.append(logits)
    return found


def check(backend: Backend, network: Any, adapter_id: int = 0) -> None:
    token_ids = random_ids(NUM_TOKENS)
    plain = whole_logits(Batch.over(backend), token_ids, adapter_id)
    looking = Looking(backend)
    found = whole_logits(Batch.over(looking), token_ids, adapter_id)
    np.testing.assert_array_equal(found, plain)
    lens = looking.lens
    assert lens is not None
    wanted = reference_lens(network, token_ids)
    assert lens.best_ids.shape == lens.logprobs.shape == (len(wanted), NUM_TOKENS)
    for best_ids, logprobs, logits in zip(lens.best_ids, lens.logprobs, wanted, strict=True):
        expected = log_probs(logits)
        assert expected.std() > 0.2, "the layers say nothing"
        own = expected[np.arange(NUM_TOKENS), best_ids]
        np.testing.assert_allclose(own, expected.max(1), atol=TOLERANCE)
        np.testing.assert_allclose(logprobs, own, atol=TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(
            family,
            name,
            marks=()
            if family in DEFAULT and name == next(iter(CASES[family]))
            else pytest.mark.slow,
        )
        for family, name in ALL
    ],
)
def test_the_lens_equals_that_of_transformers(
    family: str, name: str, backend: str, tmp_path: Path
) -> None:
    folder = write_case(tmp_path / "tiny", family, name)
    check(make_backend(folder, backend), reference_model(folder))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lens_of_a_row_with_an_adapter_is_that_of_merged_weights(
    backend: str, tmp_path: Path
) -> None:
    base = write_case(tmp_path / "base", "llama", "grouped heads")
    adapter = write_adapter(tmp_path / "adapter", base)
    merged = write_merged(tmp_path / "merged", base, adapter)
    adapted = with_adapter(make_backend(base, backend), base, adapter)
    check(adapted, reference_model(merged), adapter_id=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_batch_have_the_lens_they_have_alone(backend: str, tmp_path: Path) -> None:
    """On the native kernels to the bit."""
    folder = write_case(tmp_path / "tiny", "gemma2", next(iter(CASES["gemma2"])))
    lengths = (40, 1, 17, 3)
    together = Looking(make_backend(folder, backend, num_threads=2))
    seqs = [Sequence(random_ids(length, seed=length)) for length in lengths]
    Batch.over(together).step([(seq, len(seq.token_ids)) for seq in seqs])
    for row, length in enumerate(lengths):
        alone = Looking(make_backend(folder, backend))
        seq = Sequence(random_ids(length, seed=length))
        batch = Batch.over(alone, seed=5)
        for chunk in (length // 2, length - length // 2):
            if chunk:
                batch.step([(seq, chunk)])
        assert alone.lens is not None
        assert together.lens is not None
        np.testing.assert_array_equal(together.lens.best_ids[:, row], alone.lens.best_ids[:, 0])
        found, wanted = together.lens.logprobs[:, row], alone.lens.logprobs[:, 0]
        if backend == "native":
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
