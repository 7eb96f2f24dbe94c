"""Tune the biases of the chosen layers alone: BitFit (Ben Zaken, Ravfogel and Goldberg, ACL 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import PlanError
from wheretune.tuners.base import Attached

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class Bias:
    """Every bias of the chosen layers trains, those of the norms included (BitFit 3: all bias terms)."""

    name: ClassVar[str] = "bias"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = True
    rate: ClassVar[float] = 2e-3
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Adds nothing: the layers' own biases train.

        Raises:
            PlanError: A chosen layer has none.
        """
        from wheretune.model.parts import biases

        for layer in layers:
            _check(layer, stack.layers[layer].parts.biases)
        return Attached([p for layer in layers for p in biases(stack.layers[layer].module)])

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """The numbers that all biases of the chosen layers hold.

        Raises:
            PlanError: A chosen layer has none.
        """
        for layer in layers:
            _check(layer, model.layers[layer].parts.biases)
        return sum(model.layers[layer].parts.biases for layer in layers)


def _check(layer: int, numbers: int) -> None:
    if not numbers:
        raise PlanError(
            f"layer {layer} has no biases to train (Llama, Gemma, Mistral, T5 and ModernBERT are built without)",
            "take another tuner, such as lora or ia3",
        )
