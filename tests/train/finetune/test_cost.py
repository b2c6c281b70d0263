"""What a run is said to take is what it takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shoal.train.finetune.cost import estimate
from shoal.train.finetune.lora import make_lora
from shoal.train.finetune.speed import fastest_dtype
from tests.fakes.tiny_models import write_tiny_model
from tests.train.finetune.rows import load, make_network, one_pack, random_rows

SMOLLM2 = Path("models/smollm2.gguf")


def _operations_in_place(total: Any, left: Any, right: Any, **others: Any) -> int:
    """Of shapes [m, n], [m, k], [k, n]; torch counts products that make a tensor only."""
    return 2 * int(left[0]) * int(left[1]) * int(right[1])


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_operations_are_those_of_the_matrix_products(
    family: str, rank: int | None, checkpointing: bool, tmp_path: Path
) -> None:
    layers = {"n_layer" if family == "gpt2" else "num_hidden_layers": 4}
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family, **layers))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, rank, 16.0) if rank else None
    network = make_network(checkpoint, lora=lora, checkpointing=checkpointing)
    pack = one_pack(random_rows([(30, 3)] * 4))
    in_place = {torch.ops.aten.addmm_: _operations_in_place}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        network.backward(pack, 1.0)
    cost = estimate(
        checkpoint.spec,
        lora,
        len(pack.token_ids),
        len(pack.token_ids),
        num_targets=pack.num_targets,
        checkpointing=checkpointing,
    )
    # Attention is not counted, nor that the first layer's input needs no gradient.
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "lfm2", "qwen2_moe", "cohere"])
def test_memory_grows_with_what_is_kept_for_the_gradient(family: str, tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    network = make_network(checkpoint)
    leaves = {leaf.untyped_storage().data_ptr() for leaf in network.parameters.values()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in leaves:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    pack = one_pack(random_rows([(50, 2)] * 8))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network._hidden(pack, network._targets(pack)[0])
    found = sum(x.untyped_storage().nbytes() for x in kept.values())
    num_tokens = len(pack.token_ids)
    one, two = (estimate(checkpoint.spec, None, n * num_tokens, 0).memory_bytes for n in (1, 2))
    assert (two - one) / 1.6 == pytest.approx(found, rel=0.25)


def test_checkpointing_and_low_ranks_save_memory_and_cost_operations(tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", "llama", num_hidden_layers=8))
    spec = checkpoint.spec
    lora = make_lora(checkpoint.architecture, spec, 2, 2.0)
    whole, low_rank = (estimate(spec, each, 4096, 10**6) for each in (None, lora))
    assert low_rank.memory_bytes < whole.memory_bytes
    assert low_rank.flops < whole.flops
    again = estimate(spec, lora, 4096, 10**6, checkpointing=True)
    assert again.memory_bytes < low_rank.memory_bytes
    assert again.flops > low_rank.flops
    half = estimate(spec, lora, 4096, 10**6, dtype=torch.bfloat16)
    assert half.memory_bytes < low_rank.memory_bytes


def test_the_number_format_is_one_of_two() -> None:
    assert fastest_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert fastest_dtype("cuda:0") == torch.bfloat16


_MEASURED = """
import resource, sys
from pathlib import Path
import torch
from shoal.model.loader import load_checkpoint
from shoal.train.finetune.lora import make_lora
from shoal.train.finetune.network import TrainableNetwork
from shoal.train.finetune.pack import make_packs
from tests.train.finetune.rows import random_rows
checkpoint = load_checkpoint(Path(sys.argv[1]), lambda progress: None)
rank = int(sys.argv[2])
lora = make_lora(checkpoint.architecture, checkpoint.spec, rank, 32.0) if rank else None
network = TrainableNetwork(checkpoint, lora=lora, device="cpu", seed=0, dtype=torch.float32)
optimizer = torch.optim.AdamW(network.parameters.values(), lr=1e-4, fused=True)
for seed in range(2):
    for pack in make_packs(random_rows([(60, 45)] * 10, seed=seed), 384):
        network.backward(pack, 0.01)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not SMOLLM2.exists(), reason="shoal pull smollm2 fetches it")
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(("rank", "limit"), [(16, 1.5e9), (0, 3e9)])
def test_memory_of_smollm2_is_as_estimated_and_within_its_mark(rank: int, limit: float) -> None:
    command = [sys.executable, "-c", _MEASURED, str(SMOLLM2), str(rank)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = int(done.stdout)
    checkpoint = load(SMOLLM2)
    lora = make_lora(checkpoint.architecture, checkpoint.spec, rank, 32.0) if rank else None
    assert estimate(checkpoint.spec, lora, 300, 0).memory_bytes == pytest.approx(measured, rel=0.2)
    assert measured < limit
