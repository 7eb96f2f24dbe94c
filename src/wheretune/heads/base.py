"""What a head is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Head(Protocol):
    """Builds what sits on top: a frozen object of settings."""

    name: ClassVar[str]
    all_layers: ClassVar[bool]

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module, from features `(batch, layers * hidden)` or `(batch, hidden)` to `(batch, outputs)`."""


def count(head: Head, layers: int, hidden_size: int, outputs: int, causal: bool) -> int:
    """The parameters of a head, without making them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in head.build(layers, hidden_size, outputs, causal).parameters())
