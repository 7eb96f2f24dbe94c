"""What a selector is, and what several share: what `k` means, ranks and contests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from wheretune import catalog
from wheretune.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from typing import Literal

    from jaxtyping import Float

    from wheretune.records.base import Spec
    from wheretune.records.scores import LayerScores

    Direction = Literal["highest", "lowest"]
    Values = Float[np.ndarray, " layer"]

Given = TypeVar("Given")
Taking = TypeVar("Taking", bound="TakesK")


@runtime_checkable
class Selector(Protocol):
    """Chooses layers by their scores."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool]

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""


@runtime_checkable
class PairwiseSelector(Selector, Protocol):
    """A selector whose choice hangs on which of two layers scores higher, pair by pair."""

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The pairs (chosen, rival, sign), where sign * (chosen's score - rival's) must stay positive."""


@runtime_checkable
class AdaptiveSelector(Protocol):
    """Decides by more than the values how layers are chosen."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool]

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector that these scores ask for, and why, in words and numbers."""

    def check(self, layers: int) -> None:
        """Complains, before anything is scored, of what cannot choose among so many layers."""


@runtime_checkable
class ResolvableSelector(Protocol):
    """A selector some of whose settings mean numbers of layers only once the model is known."""

    def resolved(self, layers: int) -> Any:
        """The same selector with numbers for a model of so many layers."""


# --- how many layers: k and ratio -----------------------------------------------------------------


@dataclass(frozen=True)
class TakesK:
    """What selectors of a number of layers have in common: `k`, or a share of the layers, or neither.

    Attributes:
        k: Layers to choose; None, where no `ratio` is given either, means a quarter of them, rounded up.
        ratio: In place of `k`, the share of the layers to choose, rounded down.
    """

    k: int | None = None
    ratio: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.k is not None and self.ratio is not None:
            raise PlanError("k and ratio both say how many layers", "give the one or the other", "k")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise PlanError(f"ratio is {self.ratio}", "give a share of the layers, above 0 and up to 1", "ratio")

    def resolved(self: Taking, layers: int) -> Taking:
        """The same selector with its k for a model of so many layers."""
        return replace(self, k=self.count(layers), ratio=None)

    def count(self, layers: int) -> int:
        """How many of so many layers are chosen; see `resolve_k`."""
        return resolve_k(self.k, self.ratio, layers)


def resolve_k(k: int | None, ratio: float | None, layers: int) -> int:
    """How many layers to choose: `k`, or `ratio` of them rounded down (0.3 of 10 is 3), or a quarter, rounded up.

    Args:
        k: Layers to choose.
        ratio: The share of the layers to choose, where k is None.
        layers: How many there are.

    Raises:
        PlanError: k is below 1 or above the number of layers, or the share is of no layer.
    """
    if ratio is None:
        k = -(-layers // 4) if k is None else k
        check_k(k, layers)
        return k
    share = int(ratio * layers + 1e-9)  # in floating point, 0.3 * 10 may lie below 3
    if not 0 < ratio <= 1 or share < 1:
        raise PlanError(
            f"a ratio of {ratio} of {layers} layers is no layer", f"give a share from {1 / layers:.3f} to 1", "ratio"
        )
    return share


def check_k(k: int, layers: int) -> None:
    """Makes sure that k layers can be chosen."""
    if not 1 <= k <= layers:
        raise PlanError(f"k is {k}, but the model has {layers} layers", f"give a k from 1 to {layers}", "k")


def resolved(selector: Given, layers: int) -> Given:
    """A selector with its numbers for a model of so many layers, as plans and messages show it."""
    made: Given = selector.resolved(layers) if isinstance(selector, ResolvableSelector) else selector
    return made


def check_selector(selector: Selector | AdaptiveSelector, layers: int) -> None:
    """Complains, before anything is scored, of what cannot choose among so many layers.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, or another setting is
            wrong.
    """
    if isinstance(selector, AdaptiveSelector):
        selector.check(layers)
    else:
        selector.select(np.zeros(layers))


# --- which way, and who against whom --------------------------------------------------------------


def direction_of(scorer: Spec) -> Direction:
    """Whether a scorer's source tunes the layers with its highest or lowest scores; highest where that is not known."""
    try:
        card = catalog.find("scorer", scorer.name).card
    except ConfigError:  # a scorer that has no name in the catalog
        return "highest"
    return getattr(card, "direction", "highest")


def rank(values: Values) -> list[int]:
    """The candidates from the highest score to the lowest, ties to the lower layer."""
    numbers: list[float] = values.tolist()
    candidates = [layer for layer, number in enumerate(numbers) if not math.isnan(number)]
    return sorted(candidates, key=numbers.__getitem__, reverse=True)  # stable: equals stay in their order


def pick(values: Values, k: int) -> tuple[int, ...]:
    """The k candidates with the highest scores, ascending."""
    ranked = rank(values)
    check_k(k, len(values))
    if k > len(ranked):
        raise PlanError(
            f"k is {k}, but only {len(ranked)} layers are candidates", f"give a k from 1 to {len(ranked)}", "k"
        )
    return tuple(sorted(ranked[:k]))


def contests_of(
    values: Values, chosen: Sequence[int], sign: int, groups: Sequence[range] = ()
) -> list[tuple[int, int, int]]:
    """Each chosen layer against the candidates of its group that were not chosen; all are one group by default."""
    candidates = set(rank(values)) - set(chosen)
    return [
        (winner, rival, sign)
        for group in groups or (range(len(values)),)
        for winner in chosen
        for rival in sorted(candidates)
        if winner in group and rival in group
    ]
