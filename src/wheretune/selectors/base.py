"""What a selector is, and what several share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wheretune.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores

Values = Float[np.ndarray, " layer"]


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


def check_k(k: int, layers: int) -> None:
    """Makes sure that k layers can be chosen."""
    if not 1 <= k <= layers:
        raise PlanError(f"k is {k}, but the model has {layers} layers", f"give a k from 1 to {layers}")


def layers_to_tune(k: int | None, ratio: float | None, layers: int) -> int:
    """How many of a model's layers to tune: k, or a share of them rounded down, or a quarter.

    Raises:
        ConfigError: Both are given, or the share is no layer.
    """
    if k is not None and ratio is not None:
        raise ConfigError("a number and a share both say how many layers", "give the one or the other", "ratio")
    if ratio is None:
        return max(1, layers // 4) if k is None else k
    many = int(ratio * layers + 1e-9)  # floor, but 0.3 of 10 is 3
    if not 0 < ratio <= 1 or many < 1:
        raise ConfigError(
            f"a share of {ratio} of {layers} layers is no layer", f"give a share from {1 / layers:.3f} to 1", "ratio"
        )
    return many


def rank(values: Values) -> list[int]:
    """The candidates from the highest score to the lowest, ties to the lower layer."""
    candidates = [layer for layer in range(len(values)) if not np.isnan(values[layer])]
    return sorted(candidates, key=lambda layer: (-values[layer], layer))


def pick(values: Values, k: int) -> tuple[int, ...]:
    """The k candidates with the highest scores, ascending."""
    ranked = rank(values)
    check_k(k, len(values))
    if k > len(ranked):
        raise PlanError(f"k is {k}, but only {len(ranked)} layers are candidates", f"give a k from 1 to {len(ranked)}")
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
