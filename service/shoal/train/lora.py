"""Low-rank adapters for fine-tuning (LoRA, Hu et al. 2021), merged into the weights at export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shoal.train.network import Llama
from shoal.train.twin_embedding import TwinEmbedding


class LoraLinear(nn.Module):
    """A frozen matrix W plus a trained product of low rank: W x + (alpha / rank) B A x."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        update = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return functional.linear(x, self.weight) + update * self.scale

    def merged(self) -> Tensor:
        """The one matrix [out, in] that computes the same."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def add_lora(network: Llama, rank: int, alpha: float | None = None) -> None:
    """Freeze the network and give every matrix inside the layers an adapter.

    `alpha` is twice the rank when not given. The network computes the same until it is trained.
    """
    for weight in network.parameters():
        weight.requires_grad_(False)
    for layer in network.model.layers:
        for block in (layer.self_attn, layer.mlp):
            assert isinstance(block, nn.Module)
            for name, module in list(block.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(block, name, LoraLinear(module, rank, alpha or 2.0 * rank))


def merged_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights under their Hugging Face names: adapters merged, a plain embedding."""
    weights = {
        name: weight.detach()
        for name, weight in network.state_dict().items()
        if not name.endswith((".lora_a", ".lora_b", "embed_tokens.rows", "embed_tokens.space"))
    }
    for name, module in network.named_modules():
        if isinstance(module, LoraLinear):
            weights[f"{name}.weight"] = module.merged().detach()
        if isinstance(module, TwinEmbedding):
            weights[f"{name}.weight"] = module.weight.detach()
    return weights
