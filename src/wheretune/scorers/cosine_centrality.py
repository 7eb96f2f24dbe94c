"""Cosine centrality: how well a layer's representative token agrees with every other layer's.

    score(l) = mean over samples of 1/(L-1) sum over j != l of cos(h_{l+1}, h_{j+1})

PRiSM eq. 1; journal version eq. 1 and algorithm 1. The embeddings' output h_0 is left out. The papers
aggregate "for each batch": decided that every sample weighs alike, so a short last batch does not weigh more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.scorers.base import Card
from wheretune.scorers.sums import MeanSums, PairSums, mean_of_others

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.scorers.base import Finished


@dataclass(frozen=True)
class CosineCentrality:
    """Mean cosine similarity of a layer's representative token to those of all other layers.

    A high score is a hub that agrees with the rest of the model, a low one a layer that departs from it.
    Both ends have been tuned with profit (journal version, tables 1 and 2), so the selector decides.
    """

    name: ClassVar[str] = "cosine-centrality"
    card: ClassVar[Card] = Card(
        "mean over j != l of cos(h_{l+1}, h_{j+1})",
        "PRiSM eq. 1; journal version eq. 1, alg. 1",
        ("states",),
        "one forward pass",
        "block-highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (PairSums, MeanSums)
    reduction: ClassVar[None] = None
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def init(self, stack: LayerStack) -> PairSums:
        """Empty sums."""
        return PairSums.empty(len(stack))

    def update(self, state: PairSums, states: States) -> PairSums:
        """Adds the cosines of every pair of layers, computed in fp32."""
        return state.add(_cosines(states), states.sample_ids)

    def per_text(self, states: States) -> Float[Tensor, "batch layer"]:
        """Every text's own score."""
        return mean_of_others(_cosines(states))

    def merge(self, one: PairSums, other: PairSums) -> PairSums:
        """Adds the sums of two shards."""
        return one.merge(other)

    def finish(self, state: PairSums) -> Finished:
        """Means over samples."""
        return state.finish()


def _cosines(states: States) -> Float[Tensor, "batch layer layer"]:
    import torch

    layers = states.tokens[:, 1:]
    units = layers / torch.linalg.vector_norm(layers, dim=-1, keepdim=True)
    cosines: Float[Tensor, "batch layer layer"] = units @ units.mT
    return cosines
