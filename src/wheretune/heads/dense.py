"""Two linear maps on the last layer's representative token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import nn

    from wheretune.heads.top import Objective, TopModel
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class Dense:
    """Dropout, Linear(d -> d), tanh (or relu, gelu), dropout, Linear(d -> C) on the last layer's representative token.

    So are the classifiers of BERT, RoBERTa, DistilBERT and their kin made in Transformers. A checkpoint whose trained
    classifier is one of these keeps it under this name.
    """

    activation: Literal["tanh", "relu", "gelu"] = "tanh"
    dropout: float = 0.1
    name: ClassVar[str] = "dense"
    all_layers: ClassVar[bool] = False
    speaks: ClassVar[bool] = False

    def on(self, stack: LayerStack, outputs: int, task: Objective, seed: int, start: float | None = None) -> TopModel:
        """The headless transformer with these maps on top."""
        from wheretune.heads.headed import HeadedModel

        return HeadedModel(stack, self, outputs, task, seed, start)

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module."""
        from torch import nn

        between = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}[self.activation]
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(hidden_size, hidden_size),
            between(),
            nn.Dropout(self.dropout),
            nn.Linear(hidden_size, outputs),
        )

    def count(self, model: ModelInfo, outputs: int) -> int:
        """The d d + d numbers of the first map, and d C + C of the second."""
        return model.hidden_size * (model.hidden_size + 1) + (model.hidden_size + 1) * outputs
