"""SALF's end-of-freezing layer of every single text (S, algorithm 3): the layer with the largest gain in deviation.

Not in the catalog: it scores no layer, a schedule orders its rows by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune.scorers.base import Card, Finished
from wheretune.scorers.semantic_deviation import SemanticDeviation

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States


@dataclass(frozen=True, eq=False)
class EofFound:
    """What is known of the rows so far.

    Attributes:
        rows: Their numbers in the data.
        layers: The layer of each.
        count: How many layers the model has.
    """

    rows: tuple[int, ...]
    layers: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class EofLayers:
    """The layer with the largest gain, text by text; ties go to the lower.

    Attributes:
        variant: Of the semantic deviation.
    """

    variant: Literal["cosine", "ce", "rank"] = "cosine"
    name: ClassVar[str] = "eof-layers"
    card: ClassVar[Card] = SemanticDeviation.card
    kinds: ClassVar[tuple[type, ...]] = (EofFound,)
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> EofFound:
        """Nothing yet."""
        return EofFound((), (), len(stack))

    def update(self, state: EofFound, states: States) -> EofFound:
        """Adds a batch."""
        deviations, _ = SemanticDeviation(self.variant).deviations(states)
        layers = (deviations[:, :-1] - deviations[:, 1:]).argmax(1).tolist()  # argmax takes the first of equals
        return EofFound((*state.rows, *states.sample_ids), (*state.layers, *layers), state.count)

    def merge(self, one: EofFound, other: EofFound) -> EofFound:
        """The rows of two shards."""
        return EofFound((*one.rows, *other.rows), (*one.layers, *other.layers), one.count)

    def finish(self, state: EofFound) -> Finished:
        """By layer, the share of the rows."""
        return Finished(np.bincount(state.layers, minlength=state.count) / len(state.layers))
