"""Feature variance: how much a layer's representative token varies over the data.

    score(l) = mean over dimensions of the variance over samples of h_{l+1}

Journal version 7.4. Decided: the population variance.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wheretune.scorers.base import Card, Finished
from wheretune.types import LayerStack, States


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and summed squared deviation of every dimension of every layer, in fp64."""

    n: int
    mean: Float[Tensor, "layer hidden"]
    spread: Float[Tensor, "layer hidden"]

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both (Chan et al. 1979): no difference of large sums, so no cancellation."""
        n = self.n + other.n
        if n == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.n / n)
        return Moments(n, mean, self.spread + other.spread + step.square() * (self.n * other.n / n))


@dataclass(frozen=True)
class FeatureVariance:
    """Variance over samples of the representative token, averaged over dimensions."""

    name: ClassVar[str] = "feature-variance"
    card: ClassVar[Card] = Card(
        "mean over dimensions of Var(h_{l+1})", "journal version of PRiSM, 7.4", "states", "one forward pass", "highest"
    )
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> Moments:
        """No samples yet."""
        empty = torch.zeros(len(stack), stack.hidden_size, dtype=torch.float64)
        return Moments(0, empty, empty)

    def update(self, state: Moments, states: States) -> Moments:
        """Adds a batch."""
        layers = states.tokens[:, 1:].to("cpu", torch.float64)
        mean = layers.mean(0)
        return state.merge(Moments(len(layers), mean, (layers - mean).square().sum(0)))

    def merge(self, one: Moments, other: Moments) -> Moments:
        """Adds two shards."""
        return one.merge(other)

    def finish(self, state: Moments) -> Finished:
        """The mean variance of every layer."""
        return Finished((state.spread / state.n).mean(1).numpy())
