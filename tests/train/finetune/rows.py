"""Rows, networks and references for tests of fine-tuning's network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.checkpoint.files import StoredTensor
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.model.spec import Role
from shoal.model.weights import load_weights
from shoal.train.finetune.network import TrainableNetwork
from shoal.train.finetune.pack import Pack, make_packs
from shoal.train.finetune.rows import EncodedRow, LoraSettings

FIRST_ID, VOCAB = 10, 261
"""Of ids in rows: `transformers` gives the embedding of a padding id, a low one, no gradient."""


def make_row(ids: Sequence[int], learned_from: int, where: str = "a row") -> EncodedRow:
    """All tokens from a place on are learned."""
    in_loss = np.arange(len(ids)) >= learned_from
    return EncodedRow(np.array(ids, np.int32), in_loss, where)


def random_rows(
    shapes: Sequence[tuple[int, int]], *, prefix: int = 0, seed: int = 0
) -> list[EncodedRow]:
    """`shapes`: (length, first learned token) of each; so many first tokens are the same in all."""
    rng = np.random.default_rng(seed)
    beginning = rng.integers(FIRST_ID, VOCAB, prefix).tolist()
    rows = []
    for length, learned_from in shapes:
        own = rng.integers(FIRST_ID, VOCAB, length - prefix).tolist()
        rows.append(make_row(beginning + own, learned_from))
    return rows


def one_pack(rows: Sequence[EncodedRow]) -> Pack:
    (pack,) = make_packs(rows, sum(len(row.ids) for row in rows))
    return pack


def make_network(
    base: Path | Checkpoint, *, lora: LoraSettings | None = None, **settings: Any
) -> TrainableNetwork:
    """float32 on the CPU unless said otherwise."""
    checkpoint = base if isinstance(base, Checkpoint) else load(base)
    known: dict[str, Any] = {"device": "cpu", "seed": 0, "dtype": torch.float32}
    return TrainableNetwork(checkpoint, lora=lora, **(known | settings))


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, lambda progress: None)


def gradients_by_role(network: TrainableNetwork) -> dict[Role, Tensor]:
    """Of a network whose every weight is trained; zero where nothing flowed."""
    return {
        role: torch.zeros_like(part.leaf[part.rows])
        if part.leaf.grad is None
        else part.leaf.grad[part.rows]
        for role, part in network._weights.parts.items()
    }


def reference_nats(model: Any, rows: Sequence[EncodedRow]) -> Tensor:
    """What `transformers` gives for the rows one by one: the sum over learned tokens."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.from_numpy(row.ids).long()
        logits = model(ids[None], use_cache=False).logits[0].float()
        learned = torch.from_numpy(row.in_loss)[1:]
        total = total + F.cross_entropy(logits[:-1][learned], ids[1:][learned], reduction="sum")
    return total


def reference_gradients(model: Any, checkpoint: Checkpoint) -> dict[Role, np.ndarray[Any, Any]]:
    """`.grad` of a model of `transformers`, by role: read as the tensors of a file are."""
    tensors = {
        name: StoredTensor(
            "F32",
            (torch.zeros_like(weight) if weight.grad is None else weight.grad).numpy(),
            "gradient",
        )
        for name, weight in model.named_parameters()
    }
    weights = load_weights(checkpoint.spec, checkpoint.architecture, tensors, "gradient")
    return {role: stored.array for role, stored in weights.items()}


def assert_close(found: Tensor, wanted: Any, tolerance: float, name: object) -> None:
    """By norm, relative to the wanted one; gradients that are zero but for rounding are small."""
    found, wanted = found.double(), torch.as_tensor(np.asarray(wanted)).double()
    assert found.shape == wanted.shape, name
    difference = (found - wanted).norm().item()
    size = wanted.norm().item()
    assert difference <= tolerance * max(size, 0.1), f"{name}: {difference} of {size}"
