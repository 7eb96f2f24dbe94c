"""(IA)^3 through PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import ModelError
from wheretune.tuners.peft import attach

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import LayerParts, ModelInfo
    from wheretune.tuners.base import Attached


@dataclass(frozen=True)
class IA3:
    """Trained factors on what key and value maps put out and on what the MLP's last map reads: (IA)^3.

    Liu et al., NeurIPS 2022, equation 2. Where one map makes queries, keys and values, all of its output is scaled, as
    PEFT does for GPT-2.
    """

    name: ClassVar[str] = "ia3"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 1e-2
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the factors in.

        Raises:
            ModelError: A layer's attention or MLP was not found.
        """
        from peft import IA3Config

        every = [stack.layers[layer] for layer in layers]
        down = [f"{layer.path}.{_ia3_maps(layer.parts)[1]}" for layer in every]
        out = [f"{layer.path}.{path}" for layer in every for path in _ia3_maps(layer.parts)[0]]
        config = IA3Config(target_modules=out + down, feedforward_modules=down)
        return attach(stack, config, seed)[1]

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """Key and value outputs, and the MLP's width, a layer."""
        total = 0
        for layer in layers:
            parts = model.layers[layer].parts
            scaled, down = _ia3_maps(parts)
            total += sum(parts.maps[path][0] for path in scaled) + parts.maps[down][1]
        return total


def _ia3_maps(parts: LayerParts) -> tuple[list[str], str]:
    if parts.key is None or parts.value is None or parts.mlp_output is None:
        raise ModelError("no key, value and MLP output maps were found in the layers", "take lora with targets=...")
    return list(dict.fromkeys([parts.key, parts.value])), parts.mlp_output
