"""An MLP on all layers' representative tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from wheretune.heads.top import Objective, TopModel
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class Concat:
    """All layers' representative tokens, dropout, Linear(L d -> d), ReLU, Linear(d -> C).

    PRiSM's journal version, 3.2 and 4.3.

    BERT-base with k = 3 then trains 28.3 M parameters, as P table 3 and T table 4 print.
    """

    dropout: float = 0.3
    name: ClassVar[str] = "concat"
    all_layers: ClassVar[bool] = True
    speaks: ClassVar[bool] = False

    def on(self, stack: LayerStack, outputs: int, task: Objective, seed: int, start: float | None = None) -> TopModel:
        """The headless transformer with these maps on top."""
        from wheretune.heads.headed import HeadedModel

        return HeadedModel(stack, self, outputs, task, seed, start)

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module."""
        from torch import nn

        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(layers * hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, outputs),
        )

    def count(self, model: ModelInfo, outputs: int) -> int:
        """L d d + d numbers of the first map, and d C + C of the second."""
        layers, width = len(model), model.hidden_size
        return layers * width * width + width + width * outputs + outputs
