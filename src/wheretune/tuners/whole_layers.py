"""Tune all parameters of the chosen layers (P 3.2, T 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wheretune.types import LayerScore, LayerStack, ModelInfo


@dataclass(frozen=True)
class WholeLayers:
    """All parameters of the chosen layers train.

    Attributes:
        embeddings: Everything else in the base model (embeddings, final norm) trains too. With all layers
            this is full fine-tuning; the partial methods of the papers leave it off.
    """

    embeddings: bool = False
    name: ClassVar[str] = "full"
    needs_layers: ClassVar[bool] = True

    def parameters(self, stack: LayerStack, layers: Sequence[int]) -> list[nn.Parameter]:
        """The parameters that train below the head."""
        chosen = [p for layer in layers for p in stack.layers[layer].module.parameters()]
        if not self.embeddings:
            return chosen
        inside = {id(p) for layer in stack.layers for p in layer.module.parameters()}
        return chosen + [p for p in stack.base.parameters() if id(p) not in inside]

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """How many these are, told without the model."""
        chosen = sum(all_layers[layer].parameters for layer in layers)
        outside = model.parameters - sum(layer.parameters for layer in all_layers)
        return chosen + (outside if self.embeddings else 0)
