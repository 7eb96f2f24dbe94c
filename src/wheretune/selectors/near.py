"""Near-equal scores give way to the higher layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import PlanError
from wheretune.selectors.base import PairwiseSelector, resolved

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores
    from wheretune.selectors.base import AdaptiveSelector, Selector, Values

NEAR = 0.01  # of the profile's range: what auto and budget take for equal


@dataclass(frozen=True)
class Near:
    """A selector's choice, with a higher layer in place of a lower one where their scores are near-equal.

    The lowest trained layer decides the cost: gradients need not flow below it.

    Attributes:
        selector: Compares layers pair by pair.
        tolerance: What counts as near, as a share of the profile's range.
    """

    selector: Selector | AdaptiveSelector
    tolerance: float = NEAR
    name: ClassVar[str] = "near"
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise PlanError(
                f"the tolerance of near is {self.tolerance}", "give a share of the range, from 0 to below 1", "near"
            )
        if not isinstance(self.selector, PairwiseSelector):
            raise PlanError(
                f"near does not go with {self.selector.name}, which compares no pairs of layers", "drop one", "near"
            )

    def resolved(self, layers: int) -> Near:
        """The same with the inner selector's numbers."""
        return replace(self, selector=resolved(self.selector, layers))

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return self._pairwise.select(self._lifted(values))

    @property
    def _pairwise(self) -> PairwiseSelector:
        assert isinstance(self.selector, PairwiseSelector)  # as __post_init__ made sure
        return self.selector

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """Itself, and which layers gave way."""
        values = scores.values
        before, after = set(self._pairwise.select(values)), set(self.select(values))
        gone, come = sorted(before - after), sorted(after - before)
        if not gone:
            return self, None
        gave_way = f"{named(come, values)} for {named(gone, values)}" if come else f"none for {named(gone, values)}"
        return self, f"near-equal scores prefer the higher layer, which costs less to train: {gave_way}"

    def check(self, layers: int) -> None:
        """Complains of what cannot choose among so many layers."""
        self._pairwise.select(np.zeros(layers))

    def _lifted(self, values: Values) -> Values:
        """Values with which every near-equal contest goes to the higher layer.

        Near is meant of the layer that would have been chosen, so however often one gives way to the next, no more than
        the tolerance is lost.
        """
        room = self.tolerance * (np.nanmax(values) - np.nanmin(values))
        lifted, rightful = values.copy(), values.copy()
        while self.tolerance > 0:  # every round moves the choice up, so it ends
            contests = sorted(self._pairwise.contests(lifted), key=lambda contest: (contest[0], -contest[1]))
            near = [c for c in contests if c[1] > c[0] and abs(rightful[c[0]] - values[c[1]]) <= room]
            if not near:
                break
            lower, higher, sign = near[0]
            lifted[higher] = np.nextafter(lifted[lower], sign * np.inf)
            rightful[higher] = rightful[lower]
        return lifted


def named(layers: Sequence[int], values: Values) -> str:
    """Layers with their scores, in words."""
    return ", ".join(f"layer {layer} ({values[layer]:.4f})" for layer in layers)
