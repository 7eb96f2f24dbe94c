"""The model's own output matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from wheretune.heads.top import Objective, TopModel
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class LM:
    """The language model's own output matrix, frozen (T 3.2; S: the class is the next token).

    Attributes:
        train: Train it as well. Where it is the embeddings too, as in most small models, it cannot be: they would train
            with it, and nothing frozen would lie below the layers.
    """

    train: bool = False
    name: ClassVar[str] = "lm"
    all_layers: ClassVar[bool] = False
    speaks: ClassVar[bool] = True

    def on(self, stack: LayerStack, outputs: int, task: Objective, seed: int, start: float | None = None) -> TopModel:
        """The language model; nothing is drawn."""
        from wheretune.heads.speaking import SpeakingModel

        return SpeakingModel(stack, task, self.train)

    def count(self, model: ModelInfo, outputs: int) -> int:
        """None, or the V d numbers of the matrix (a bias, which few families have, is left out of the count)."""
        return model.vocabulary * model.hidden_size if self.train else 0
