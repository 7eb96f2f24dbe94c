"""Feature variance: how much a layer's representative token varies over the data.

    score(l) = mean over dimensions of the variance over samples of h_{l+1}

Journal version 7.4. Decided: the population variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.scorers.base import Card, Finished
from wheretune.scorers.sketch import Sketch
from wheretune.scorers.sums import Moments

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States


@dataclass(frozen=True, eq=False)
class Variances:
    """The moments of every dimension, and some rows for saying how sure the scores are."""

    moments: Moments
    sketch: Sketch

    def merge(self, other: Variances) -> Variances:
        """Both."""
        return Variances(self.moments.merge(other.moments), self.sketch.merge(other.sketch))


@dataclass(frozen=True)
class FeatureVariance:
    """Variance over samples of the representative token, averaged over dimensions."""

    name: ClassVar[str] = "feature-variance"
    card: ClassVar[Card] = Card(
        "mean over dimensions of Var(h_{l+1})",
        "journal version of PRiSM, 7.4",
        ("states",),
        "one forward pass",
        "highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (Variances, Moments, Sketch)
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> Variances:
        """No samples yet."""
        return Variances(Moments.empty(len(stack), stack.hidden_size), Sketch.empty(len(stack), stack.hidden_size))

    def update(self, state: Variances, states: States) -> Variances:
        """Adds a batch."""
        layers = states.tokens[:, 1:]
        return Variances(state.moments.merge(Moments.of(layers)), state.sketch.add(states.sample_ids, layers))

    def merge(self, one: Variances, other: Variances) -> Variances:
        """Adds two shards."""
        return one.merge(other)

    def finish(self, state: Variances) -> Finished:
        """The mean variance of every layer; how sure it is comes from subsamples."""
        import torch

        rows = state.sketch.rows.double()
        rows = rows - rows.mean(0) if len(rows) else rows

        def of_parts(chosen: Float[Tensor, "row part"]) -> Float[Tensor, "part layer"]:
            size = chosen[:, 0].sum()
            mean, square = (torch.einsum("np,nld->pld", chosen, power) / size for power in (rows, rows.square()))
            return (square - mean.square()).mean(2)

        values = (state.moments.spread / state.moments.n).mean(1).numpy()
        return Finished(values, covariance=state.sketch.covariance(state.moments.n, of_parts))
