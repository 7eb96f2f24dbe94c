"""Gradient norm: how hard the loss of a fresh head pulls at a layer's parameters.

    score(l) = sum over batches of the L2 norm of the gradient of the batch's mean loss with respect to layer l

Journal version of PRiSM, 7.4: over one epoch, without updates. Decided: the sum of norms over batches, not the norm of
a sum; the head is freshly drawn from the reading's seed and dropout is off. The score depends on the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.scorers.base import Card
from wheretune.scorers.sums import BatchSums, MeanSums

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import Gradients
    from wheretune.scorers.base import Finished


@dataclass(frozen=True)
class GradientNorm:
    """The L2 norm of the loss gradient of a layer's parameters, summed over one epoch's batches."""

    name: ClassVar[str] = "gradient-norm"
    card: ClassVar[Card] = Card(
        "sum over batches of the L2 norm of the loss gradient",
        "journal version of PRiSM, 7.4",
        ("gradients", "labels"),
        "one backward pass",
        "highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (BatchSums, MeanSums)
    per_sample: ClassVar[bool] = False

    def init(self, stack: LayerStack) -> BatchSums:
        """Empty sums."""
        return BatchSums.empty(len(stack))

    def update(self, state: BatchSums, gradients: Gradients) -> BatchSums:
        """Adds a batch."""
        return state.add(gradients.norms, len(gradients.sample_ids))

    def merge(self, one: BatchSums, other: BatchSums) -> BatchSums:
        """Adds the sums of two shards."""
        return one.merge(other)

    def finish(self, state: BatchSums) -> Finished:
        """The sums over batches."""
        return state.finish(total=True)
