"""Fisher information: how much the loss of a fresh head hangs on a layer's parameters, on average.

    score(l) = mean over the parameters of layer l of E[g^2], g the gradient of one sample's loss

The baseline of layer-wise LoRA by CKA (Lodha et al. 2023); the empirical Fisher, with the data's own labels.
`per=sample` is exact. `per=batch` squares the gradient of a batch's mean loss instead: an approximation, which is as
cheap as training and weighs what a batch's samples agree on; decided that batches weigh alike.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from wheretune.errors import ConfigError
from wheretune.scorers.base import Card, Finished, MeanSums
from wheretune.types import Gradients, LayerStack


@dataclass(frozen=True)
class Fisher:
    """The mean squared gradient of a layer's parameters.

    Attributes:
        per: `sample`, exact; or `batch`, an approximation.
    """

    per: Literal["sample", "batch"] = "sample"
    name: ClassVar[str] = "fisher"
    card: ClassVar[Card] = Card(
        "mean over parameters of E[g^2]",
        "FIM baseline, Lodha et al. 2023",
        "gradients",
        "one backward pass, a sample at a time (per=batch: approximate, in batches)",
        "highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (MeanSums,)

    @property
    def per_sample(self) -> bool:
        """Whether each sample's own gradient is read."""
        return self.per == "sample"

    def init(self, stack: LayerStack) -> MeanSums:
        """Empty sums."""
        if self.per not in ("sample", "batch"):
            raise ConfigError(f"fisher is not taken per {self.per!r}", "take per=sample or per=batch")
        return MeanSums.empty(len(stack))

    def update(self, state: MeanSums, gradients: Gradients) -> MeanSums:
        """Adds a batch."""
        if self.per == "batch":
            return state.add(gradients.batch_squares.unsqueeze(0))
        assert gradients.squares is not None
        return state.add(gradients.squares)

    def merge(self, one: MeanSums, other: MeanSums) -> MeanSums:
        """Adds the sums of two shards."""
        return one.merge(other)

    def finish(self, state: MeanSums) -> Finished:
        """Means over samples; of `per=batch`, over batches."""
        means = state.finish()
        return means if self.per == "sample" else replace(means, stds=None)
