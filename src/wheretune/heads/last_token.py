"""A linear map on the last layer's representative token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from wheretune.heads.top import Objective, TopModel
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class LastToken:
    """Dropout and Linear(d -> C) on the last layer's representative token (PRiSM, 3.2).

    Decided where the paper is silent: dropout 0.1, and for decoders no bias, as in Transformers' own
    sequence classifiers, so that a tuned decoder merges into one of those.
    """

    dropout: float = 0.1
    name: ClassVar[str] = "last-token"
    all_layers: ClassVar[bool] = False
    speaks: ClassVar[bool] = False

    def on(self, stack: LayerStack, outputs: int, task: Objective, seed: int, start: float | None = None) -> TopModel:
        """The headless transformer with this map on top."""
        from wheretune.heads.headed import HeadedModel

        return HeadedModel(stack, self, outputs, task, seed, start)

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module."""
        from torch import nn

        return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(hidden_size, outputs, bias=not causal))

    def count(self, model: ModelInfo, outputs: int) -> int:
        """The d C numbers of the map, and C biases for an encoder."""
        return model.hidden_size * outputs + (0 if model.causal else outputs)
