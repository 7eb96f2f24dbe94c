"""Fisher information: how much the loss of a fresh head hangs on a layer's parameters, on average.

    score(l) = mean over the parameters of layer l of E[g^2], g the gradient of one sample's loss

The baseline of layer-wise LoRA by CKA (Lodha et al. 2023); the empirical Fisher, with the data's own labels.
`per=sample` is exact. `per=batch` squares the gradient of a batch's mean loss instead: an approximation, which is as
cheap as training and weighs what a batch's samples agree on; decided that batches weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wheretune.errors import ConfigError
from wheretune.scorers.base import Card
from wheretune.scorers.sums import BatchSums, MeanSums

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import Gradients
    from wheretune.scorers.base import Finished


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
        ("gradients", "labels"),
        "one backward pass, a sample at a time (per=batch: approximate, in batches)",
        "highest",
    )
    kinds: ClassVar[tuple[type, ...]] = (BatchSums, MeanSums)

    @property
    def per_sample(self) -> bool:
        """Whether each sample's own gradient is read."""
        return self.per == "sample"

    def init(self, stack: LayerStack) -> MeanSums | BatchSums:
        """Empty sums."""
        if self.per not in ("sample", "batch"):
            raise ConfigError(f"fisher is not taken per {self.per!r}", "take per=sample or per=batch")
        return MeanSums.empty(len(stack)) if self.per == "sample" else BatchSums.empty(len(stack))

    def update(self, state: MeanSums | BatchSums, gradients: Gradients) -> MeanSums | BatchSums:
        """Adds a batch."""
        if isinstance(state, BatchSums):
            return state.add(gradients.batch_squares, len(gradients.sample_ids))
        assert gradients.squares is not None
        return state.add(gradients.squares)

    def merge(self, one: MeanSums | BatchSums, other: MeanSums | BatchSums) -> MeanSums | BatchSums:
        """Adds the sums of two shards."""
        return one.merge(other)  # type: ignore[arg-type]  # both are of the kind that `per` says

    def finish(self, state: MeanSums | BatchSums) -> Finished:
        """Means over samples; of `per=batch`, over batches."""
        return state.finish(total=False) if isinstance(state, BatchSums) else state.finish()
