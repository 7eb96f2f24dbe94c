"""Semantic deviation: how much nearer a layer brings the last token to what the label means.

    score(l) = mean over samples of dev_l - dev_{l+1},  dev_k = 1 - cos(h_k, base(label))

SALF, section 3 and algorithms 2 and 3; base(v) is the semantic base of token v (2.1; see `model.output_matrix`), the
label the first token of its class's verbaliser or of the target column. Everything from the layer with the largest gain
upward trains (suffix): algorithm 3, not the caption of figure 2. Beside the mean, each sample's own largest gain is
counted (`eof_layers`), and the deviations of every latent space are kept as histograms (figures 5 and 6).

Table 6 has two variants, over the labels that the data has (decided, so that only their rows are formed; the paper's
explanation of `rank`, "the class number ... is smaller than 10", agrees):

    ce      dev_k = cross-entropy of the label over the logits cos(h_k, base(v))
    rank    dev_k = how many labels have a higher cosine than the sample's own
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from wheretune.errors import ConfigError
from wheretune.records.scores import Deviations
from wheretune.scorers.base import Card
from wheretune.scorers.sums import MeanSums

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.scorers.base import Finished

BINS = 200


@dataclass(frozen=True, eq=False)
class DeviationSums:
    """Sums over samples.

    Attributes:
        gains: Of the gain of every layer.
        deviations: Sum of the deviation of every latent space.
        counts: Samples per bin of the deviation, in `BINS` equal parts of 0 to the highest there can be.
        gain_counts: Samples per bin of the gain, in `BINS` equal parts of minus to plus that.
        eof_layers: Samples whose gain is largest at each layer; ties go to the lower.
        highest: The highest deviation there can be; 0 while nothing has been seen.
    """

    gains: MeanSums
    deviations: Float[Tensor, " state"]
    counts: Int[Tensor, "state bin"]
    gain_counts: Int[Tensor, "layer bin"]
    eof_layers: Int[Tensor, " layer"]
    highest: float


@dataclass(frozen=True)
class SemanticDeviation:
    """The mean gain of a layer in nearness to the label's semantic base.

    Attributes:
        variant: `cosine` (the paper's choice), `ce` or `rank`.
    """

    variant: Literal["cosine", "ce", "rank"] = "cosine"
    name: ClassVar[str] = "semantic-deviation"
    card: ClassVar[Card] = Card(
        "dev_l - dev_{l+1}, dev_k = 1 - cos(h_k, base(label))",
        "SALF, section 3",
        ("states", "labels", "language-model"),
        "one forward pass, and inverting a d x d matrix",
        "suffix",
    )
    kinds: ClassVar[tuple[type, ...]] = (DeviationSums, MeanSums)
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> DeviationSums:
        """Empty sums."""
        import torch

        if self.variant not in ("cosine", "ce", "rank"):
            raise ConfigError(f"semantic-deviation has no variant {self.variant!r}", "take cosine, ce or rank")
        layers = len(stack)
        return DeviationSums(
            gains=MeanSums.empty(layers),
            deviations=torch.zeros(layers + 1, dtype=torch.float64),
            counts=torch.zeros(layers + 1, BINS, dtype=torch.int64),
            gain_counts=torch.zeros(layers, BINS, dtype=torch.int64),
            eof_layers=torch.zeros(layers, dtype=torch.int64),
            highest=0.0,
        )

    def update(self, state: DeviationSums, states: States) -> DeviationSums:
        """Adds a batch."""
        import torch

        deviations, highest = self.deviations(states)
        gains = deviations[:, :-1] - deviations[:, 1:]
        eof = torch.bincount(gains.argmax(1), minlength=gains.shape[1])  # argmax takes the first of equals
        return self.merge(
            state,
            DeviationSums(
                gains=MeanSums.empty(gains.shape[1]).add(gains),
                deviations=deviations.sum(0),
                counts=_histogram(deviations / highest),
                gain_counts=_histogram((gains / highest + 1) / 2),
                eof_layers=eof,
                highest=highest,
            ),
        )

    def deviations(self, states: States) -> tuple[Float[Tensor, "batch state"], float]:
        """The deviation of every latent space, in fp64 on the CPU, and the highest there can be."""
        import torch
        from torch.nn.functional import cross_entropy, normalize

        assert states.meanings is not None
        tokens = normalize(states.tokens.double().cpu(), dim=-1)
        bases, targets = normalize(states.meanings.bases.double().cpu(), dim=-1), states.meanings.targets.cpu()
        own = (tokens @ bases[targets].unsqueeze(2)).squeeze(2)
        others = len(bases) - 1
        if self.variant == "cosine":
            return 1 - own, 2.0
        if others == 0:
            raise ConfigError(f"variant={self.variant} compares labels, and the data has one", "take variant=cosine")
        cosines = tokens @ bases.T
        if self.variant == "rank":
            is_own = torch.nn.functional.one_hot(targets, others + 1).bool().unsqueeze(1)
            return ((cosines > own.unsqueeze(2)) & ~is_own).sum(2).double(), float(others)
        losses = cross_entropy(cosines.flatten(0, 1), targets.repeat_interleave(cosines.shape[1]), reduction="none")
        return losses.view(own.shape), math.log1p(others * math.exp(2))

    def merge(self, one: DeviationSums, other: DeviationSums) -> DeviationSums:
        """Adds the sums of two shards."""
        return DeviationSums(
            gains=one.gains.merge(other.gains),
            deviations=one.deviations + other.deviations,
            counts=one.counts + other.counts,
            gain_counts=one.gain_counts + other.gain_counts,
            eof_layers=one.eof_layers + other.eof_layers,
            highest=max(one.highest, other.highest),
        )

    def finish(self, state: DeviationSums) -> Finished:
        """Mean gains, and the distribution of the deviations."""
        deviations = Deviations(
            means=tuple((state.deviations / state.gains.n).tolist()),
            highest=state.highest,
            counts=tuple(map(tuple, state.counts.tolist())),
            gains=tuple(map(tuple, state.gain_counts.tolist())),
            eof_layers=tuple(state.eof_layers.tolist()),
        )
        return replace(state.gains.finish(), deviations=deviations)


def _histogram(shares: Float[Tensor, "batch space"]) -> Int[Tensor, "space bin"]:
    """How many samples fall into each of `BINS` equal parts of 0 to 1, one row per space."""
    import torch

    bins = (shares * BINS).long().clamp(0, BINS - 1)
    return torch.stack([torch.bincount(column, minlength=BINS) for column in bins.T])
