"""Euclidean centrality: cosine centrality with the negative distance in place of the cosine.

    score(l) = mean over samples of 1/(L-1) sum over j != l of -||h_{l+1} - h_{j+1}||

PRiSM table 5, journal version table 7: the papers' control for the choice of the cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.scorers.base import Card
from wheretune.scorers.sums import MeanSums, PairSums

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.scorers.base import Finished


@dataclass(frozen=True)
class EuclideanCentrality:
    """Mean negative Euclidean distance of a layer's representative token to those of all other layers."""

    name: ClassVar[str] = "euclidean-centrality"
    card: ClassVar[Card] = Card(
        "mean over j != l of -||h_{l+1} - h_{j+1}||",
        "PRiSM table 5; journal version table 7",
        ("states",),
        "one forward pass",
        "block-highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (PairSums, MeanSums)
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> PairSums:
        """Empty sums."""
        return PairSums.empty(len(stack))

    def update(self, state: PairSums, states: States) -> PairSums:
        """Adds the negative distances of every pair of layers, computed from differences in fp32."""
        import torch

        layers = states.tokens[:, 1:]
        exact = "donot_use_mm_for_euclid_dist"  # the matrix product loses small distances to cancellation
        return state.add(-torch.cdist(layers, layers, compute_mode=exact), states.sample_ids)

    def merge(self, one: PairSums, other: PairSums) -> PairSums:
        """Adds the sums of two shards."""
        return one.merge(other)

    def finish(self, state: PairSums) -> Finished:
        """Means over samples."""
        return state.finish()
