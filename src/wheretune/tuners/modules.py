"""The modules that our own tuners put into layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Bottleneck(nn.Module):
    """x + W_up gelu(W_down x + b_down) + b_up (Houlsby 2.1); with W_up and b_up at zero it is x.

    Args:
        hidden: d, the width of the states.
        size: m, the width between.
    """

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)
        nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: Float[Tensor, "*lead hidden"]) -> Float[Tensor, "*lead hidden"]:
        """The states with what the adapter adds."""
        inside = nn.functional.gelu(self.down(hidden.to(self.down.weight.dtype)))
        out: Tensor = hidden + self.up(inside).to(hidden.dtype)
        return out


class PrefixAttention(nn.Module):
    """tanh(gate) softmax(q K^T / sqrt(d)) V for every head, K and V trained.

    Args:
        length: Rows of K and V.
        heads: Query heads.
        kv_heads: Heads of K and V; each serves `heads / kv_heads` query heads.
        size: Width of a head.
    """

    def __init__(self, length: int, heads: int, kv_heads: int, size: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(length, kv_heads, size))
        self.values = nn.Parameter(torch.empty(length, kv_heads, size))
        self.gate = nn.Parameter(torch.zeros(heads))
        for drawn in (self.keys, self.values):
            nn.init.normal_(drawn)

    def forward(self, query: Float[Tensor, "*lead heads size"]) -> Float[Tensor, "*lead heads size"]:
        """What every token reads from the prefix."""
        copies = self.gate.shape[0] // self.keys.shape[1]
        keys, values = (kept.repeat_interleave(copies, dim=1) for kept in (self.keys, self.values))
        scores = torch.einsum("...hd,phd->...hp", query.to(keys.dtype), keys) / keys.shape[-1] ** 0.5
        read = torch.einsum("...hp,phd->...hd", scores.softmax(-1), values) * self.gate.tanh().unsqueeze(-1)
        return read.to(query.dtype)
