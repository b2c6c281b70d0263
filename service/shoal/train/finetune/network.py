"""Any decoder that Shoal can read, trained: the network that serves it (`model/torch`), over packs
instead of a KV cache, with a gradient."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from shoal.checkpoint.blocks import dequantize
from shoal.model.loader import Checkpoint
from shoal.model.spec import Role
from shoal.model.torch.attention import AttentionBatch
from shoal.model.torch.decoder import Decoder, DecoderLayer, Rotations
from shoal.train.finetune.attention import PackCache
from shoal.train.finetune.lora import LowRank, new_low_ranks
from shoal.train.finetune.loss import Head
from shoal.train.finetune.pack import Pack
from shoal.train.finetune.rows import LoraSettings
from shoal.train.finetune.speed import fastest_dtype
from shoal.train.finetune.weights import TrainedWeights


class TrainableNetwork:
    """A base and what is trained of it: all weights, or low-rank products beside them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        lora: LoraSettings | None,
        device: str,
        seed: int,
        checkpointing: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`lora`: None trains all weights. `checkpointing`: activations of a layer are computed
        again for the gradient instead of being kept. `dtype`: of matrix products; None takes
        bfloat16 where it is faster than float32. The checkpoint's files are read here and once
        more for `whole_weights`."""
        self.dtype = dtype or fastest_dtype(device)
        self.lora = lora
        self._stored = checkpoint.weights
        self._device = device
        self._recomputes = checkpointing
        self._low_ranks: Mapping[tuple[int, str], LowRank] | None = None
        if lora is not None:
            self._low_ranks = new_low_ranks(
                checkpoint.architecture,
                checkpoint.spec,
                lora,
                seed=seed,
                dtype=torch.promote_types(self.dtype, torch.float32),
                device=device,
            )
        self._weights = TrainedWeights(
            checkpoint.weights,
            compute=self.dtype,
            device=device,
            low_ranks=self._low_ranks,
            scale=1.0 if lora is None else lora.alpha / lora.rank,
        )
        self._decoder = Decoder(checkpoint.spec, self._weights)
        matrix = self._decoder.head_matrix
        if matrix is None:
            raise ValueError("a network without a head writes no text to be taught")
        self._head = Head(checkpoint.spec, matrix.weight, matrix.bias, self.dtype)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What is trained, float32 leaves by names that are the same in every run of this base."""
        return self._weights.leaves

    def backward(self, pack: Pack, scale: float) -> float:
        """The sum of nats over the pack's targets; the gradient of `scale` times it is added to
        `.grad` of the parameters."""
        wanted, targets = self._targets(pack)
        if not len(targets):
            return 0.0
        hidden = self._hidden(pack, wanted)
        nats, grad = self._head.backward(hidden, targets, scale)
        torch.autograd.backward(hidden, grad.to(hidden.dtype))
        return nats

    @torch.no_grad()
    def nats(self, pack: Pack) -> tuple[float, int]:
        """(sum of nats over the pack's targets, how many they are); nothing else changes."""
        wanted, targets = self._targets(pack)
        if not len(targets):
            return 0.0, 0
        return self._head.nats(self._hidden(pack, wanted), targets), len(targets)

    def low_rank(self) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
        """(layer, role) -> (A [rank, in], B [out, rank]), float32. Roles whose matrices the base
        keeps in one have the same A. Empty without LoRA."""
        return {
            (low_rank.module.layer, role): (low_rank.a.detach(), b)
            for low_rank in (self._low_ranks or {}).values()
            for role, b in zip(low_rank.module.roles, low_rank.b_by_role(), strict=True)
        }

    def whole_weights(self) -> Iterator[tuple[Role, Tensor]]:
        """Every weight as a file stores it, float32, one at a time; low-rank products are merged
        in. What is trained itself is a view of its leaf."""
        updates: dict[Role, tuple[Tensor, Tensor]] = {}
        for low_rank in (self._low_ranks or {}).values():
            module = low_rank.module
            for name, b in zip(module.roles, low_rank.b_by_role(), strict=True):
                updates[Role(f"{name}.weight", module.layer)] = (b, low_rank.a.detach())
        for role, stored in self._stored.items():
            if (part := self._weights.parts.get(role)) is not None:
                yield role, part.leaf.detach()[part.rows].float().cpu()
                continue
            weight = torch.from_numpy(dequantize(stored))
            if self.lora is not None and role in updates:
                b, a = updates[role]
                weight = weight.add((b @ a).cpu(), alpha=self.lora.alpha / self.lora.rank)
            yield role, weight.float()

    def _targets(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """(tokens whose next one is learned [L], those next ones [L])."""
        targets = torch.from_numpy(pack.targets).to(self._device, torch.long)
        wanted = torch.where(targets >= 0)[0]
        return wanted, targets[wanted]

    def _hidden(self, pack: Pack, wanted: Tensor) -> Tensor:
        """What the head is multiplied with at these tokens [L, width]."""
        token_ids = torch.from_numpy(pack.token_ids).to(self._device, torch.long)
        positions = torch.from_numpy(pack.positions).to(self._device, torch.long)
        cache = PackCache(pack, self._device)
        batch = AttentionBatch(slots=positions, positions=positions, decode=None, prefills=[])
        decoder = self._decoder
        x = decoder.embed(token_ids, positions).to(self._weights.wide)
        rotations = decoder.rotations(positions)
        last = decoder.layers[-1]
        for layer in decoder.layers:
            x = self._run(layer, x, rotations, batch, cache, wanted if layer is last else None)
        return decoder.head_input(x)

    def _run(
        self,
        layer: DecoderLayer,
        x: Tensor,
        rotations: Rotations,
        batch: AttentionBatch,
        cache: PackCache,
        wanted: Tensor | None,
    ) -> Tensor:
        if not self._recomputes or not torch.is_grad_enabled():
            return layer(x, rotations, batch, cache, wanted)
        out: Tensor = recomputed(
            layer, x, rotations, batch, cache, wanted, use_reentrant=False, preserve_rng_state=False
        )
        return out
