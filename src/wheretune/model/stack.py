"""A model's layers in the order in which they run: types alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wheretune.records.model import LayerParts

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Layer:
    """One transformer layer: its index from 0, its path below the base model, the module and what it is made of."""

    index: int
    path: str
    module: nn.Module
    parts: LayerParts = field(default_factory=LayerParts)


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The layers of a model in the order in which they run.

    Attributes:
        model: The model as the user has it, with whatever sits on top.
        base: The headless transformer inside `model` (or `model` itself).
        base_path: The path of `base` below `model`, empty if they are the same.
        layers: The layers, first to last.
        hidden_size: d, the width of the hidden states.
        causal: A decoder, whose representative token is the last one; otherwise the first.
        attribute: Where the user said the layers are, if they had to.
        split: How many of the layers are an encoder's, where those of its decoder follow; 0 where all are one stack.
    """

    model: nn.Module
    base: nn.Module
    base_path: str
    layers: tuple[Layer, ...]
    hidden_size: int
    causal: bool
    attribute: str | None = None
    split: int = 0

    def __len__(self) -> int:
        return len(self.layers)
