"""The shape of the profile decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import PlanError
from wheretune.selectors.base import TakesK
from wheretune.selectors.blocks import BlockHighest
from wheretune.selectors.near import NEAR, Near
from wheretune.selectors.ranked import Highest, Lowest

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores
    from wheretune.selectors.base import PairwiseSelector, Selector, Values

PROMINENT = 0.2  # of the profile's range: how far a peak must stand out on both sides
DROP = 0.5  # of the profile's range: how far a late divergence must fall
STEADY = 2.0  # standard deviations that a drop must measure, and how much more the deep end may vary than the rest


@dataclass(frozen=True)
class Auto(TakesK):
    """k layers by the shape of a centrality profile: late divergence, a middle peak, or neither.

    PRiSM's journal version, 5.5:

    The first rule that fits, on the candidates' scores in three equal parts by depth:

    1. late divergence -> lowest: the last third lies below the rest by half the profile's range or more, and by two of
       its own standard deviations or more (SST-2, E2E);
    2. unstable deep end -> block-highest: the last third's standard deviation is twice the rest's or more (MRPC);
    3. several peaks -> block-highest: two or more that stand out by a fifth of the range (CoLA, STS-B);
    4. one peak in the middle third -> highest (MR);
    5. otherwise block-highest, the best on average (PRiSM's journal version, tables 1 and 2).

    The paper describes shapes in words; the numbers are ours. Near-equal scores prefer the higher layer.
    """

    name: ClassVar[str] = "auto"
    needs_scores: ClassVar[bool] = True

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector of the rule that fired, and its numbers.

        Raises:
            PlanError: The scores are no centralities, whose shape the rules are about.
        """
        if scores.similarity is None:
            raise PlanError(
                f"auto reads the shape of a centrality profile, and {scores.scorer.name} has none",
                "score with cosine-centrality, or choose another selector",
                "selector",
            )
        shaped = Shaped(self.count(len(scores.layers)), tuple(np.nan_to_num(scores.stds).tolist()))
        selector, why = shaped.rule(scores.values)
        _, swapped = Near(selector, NEAR).adapt(scores)
        return shaped, "; ".join(reason for reason in (why, swapped) if reason is not None)

    def check(self, layers: int) -> None:
        """Complains of what cannot choose among so many layers."""
        self.count(layers)


@dataclass(frozen=True)
class Shaped:
    """What `Auto` becomes for layers whose scores vary over samples by so much: decides again for any values.

    Attributes:
        k: Layers to choose.
        stds: The standard deviation of every layer's score over samples.
    """

    k: int
    stds: tuple[float, ...]
    name: ClassVar[str] = "shaped"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return Near(self.rule(values)[0], NEAR).select(values)

    def rule(self, values: Values) -> tuple[PairwiseSelector, str]:
        """The selector of the rule that fires, and its numbers."""
        stds = np.array(self.stds)
        count, span = len(values), float(np.ptp(values))
        if count < 3 or span == 0:
            return BlockHighest(self.k), "no shape: too few layers, or all alike -> block-highest"
        deep = slice(count - count // 3, count)
        rest = slice(0, count - count // 3)
        drop = float(values[rest].mean() - values[deep].mean())
        shaky, calm = float(stds[deep].mean()), float(stds[rest].mean())
        if drop >= DROP * span and drop >= STEADY * shaky:
            return Lowest(self.k), (
                f"late divergence: the last third lies {drop:.4f} below the rest ({drop / span:.0%} of the range; its "
                f"standard deviation is {shaky:.4f}) -> lowest"
            )
        if shaky >= STEADY * calm > 0:
            return BlockHighest(self.k), (
                f"unstable deep end: its standard deviation is {shaky:.4f}, the rest's {calm:.4f} -> block-highest"
            )
        peaks = _peaks(values, PROMINENT * span)
        where = ", ".join(map(str, peaks))
        if len(peaks) > 1:
            return BlockHighest(self.k), f"several peaks (layers {where}) -> block-highest"
        if peaks and count // 3 <= peaks[0] < 2 * count // 3:
            return Highest(self.k), f"one peak, in the middle (layer {where}: {values[peaks[0]]:.4f}) -> highest"
        return BlockHighest(self.k), f"no late divergence, no middle peak (peak at layer {where}) -> block-highest"


def _peaks(values: Values, prominence: float) -> list[int]:
    """The local maxima that stand out, the ends included."""
    from scipy.signal import find_peaks

    low = values.min() - prominence  # so that an end can be a peak
    found, _ = find_peaks(np.concatenate([[low], values, [low]]), prominence=prominence)
    return [int(place) - 1 for place in found]
