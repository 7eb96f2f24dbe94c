"""Tune all parameters of the chosen layers (PRiSM, 3.2, and its journal version)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.tuners.base import Attached

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class WholeLayers:
    """All parameters of the chosen layers train.

    Attributes:
        embeddings: Everything else in the base model (embeddings, final norm) trains too, but for the eyes of a model
            that sees. With all layers this is full fine-tuning; the partial methods of the papers leave it off.
    """

    embeddings: bool = False
    name: ClassVar[str] = "full"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = True
    rate: ClassVar[float] = 6e-5
    needs_every_step: ClassVar[bool] = False

    @property
    def trains_embeddings(self) -> bool:
        return self.embeddings

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Adds nothing: the layers' own parameters train."""
        from wheretune.model.finding import eyes_of

        chosen = [p for layer in layers for p in stack.layers[layer].module.parameters()]
        inside = {id(p) for layer in stack.layers for p in layer.module.parameters()}
        inside |= {id(p) for p in eyes_of(stack.base)}
        outside = [p for p in stack.base.parameters() if id(p) not in inside]
        return Attached(chosen + (outside if self.embeddings else []))

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """How many these are, told without the model."""
        chosen = sum(model.layers[layer].parameters for layer in layers)
        return chosen + (model.outside if self.embeddings else 0)
