"""Input-output cosine: how little a layer turns its tokens.

    score(l) = mean over samples of the mean over unmasked tokens of cos(h_l, h_{l+1})

The Layer Drop baseline of PRiSM and its journal version (He et al. 2024). A low score marks an important layer, a
high one a redundant layer. Decided: tokens are averaged within a sample first, so samples weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.scorers.base import Card
from wheretune.scorers.sums import MeanSums

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from wheretune.model.forward import Reduction
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.scorers.base import Finished


def mean_token_cosine(
    before: Float[Tensor, "batch token hidden"],
    after: Float[Tensor, "batch token hidden"],
    mask: Int[Tensor, "batch token"],
) -> Float[Tensor, " batch"]:
    """The mean over a sample's unmasked tokens of the cosine between a layer's input and output."""
    import torch

    cosines = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
    return torch.where(mask.bool(), cosines, 0).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class IOCosine:
    """Mean cosine between a layer's input and output, over all unmasked tokens."""

    name: ClassVar[str] = "io-cosine"
    card: ClassVar[Card] = Card(
        "mean over tokens of cos(h_l, h_{l+1})",
        "Layer Drop, He et al. 2024",
        ("states",),
        "one forward pass",
        "lowest",
        direction="lowest",
    )
    kinds: ClassVar[tuple[type, ...]] = (MeanSums,)
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    @property
    def reduction(self) -> Reduction:
        """The cosines of all tokens."""
        return mean_token_cosine

    def init(self, stack: LayerStack) -> MeanSums:
        """Empty sums."""
        return MeanSums.empty(len(stack))

    def update(self, state: MeanSums, states: States) -> MeanSums:
        """Adds the cosines that were computed while the layers ran."""
        return state.add(self.per_text(states))

    def per_text(self, states: States) -> Float[Tensor, "batch layer"]:
        """Every text's own score."""
        return states.reduced[self.name]

    def merge(self, one: MeanSums, other: MeanSums) -> MeanSums:
        """Adds the sums of two shards."""
        return one.merge(other)

    def finish(self, state: MeanSums) -> Finished:
        """Means over samples."""
        return state.finish()
