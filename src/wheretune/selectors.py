"""Scores -> layers. A selector is a frozen object of settings with `select(values)`.

Layers come back ascending, counted from 0. Ties go to the lower layer. A score that is not a number marks a layer
that is no candidate. Selecting nothing, or more layers than there are, is an error, never a silent full
fine-tuning.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wheretune.errors import PlanError

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


def blocks(layers: int, k: int) -> tuple[range, ...]:
    """The layers in k contiguous blocks; sizes differ by at most one, the earlier blocks take the rest."""
    size, rest = divmod(layers, k)
    edges = [number * size + min(number, rest) for number in range(k + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def _check(k: int, layers: int) -> None:
    if not 1 <= k <= layers:
        raise PlanError(f"k is {k}, but the model has {layers} layers", f"give a k from 1 to {layers}")


def _ranked(values: Values) -> list[int]:
    """The candidates from the highest score to the lowest, ties to the lower layer."""
    candidates = [layer for layer in range(len(values)) if not np.isnan(values[layer])]
    return sorted(candidates, key=lambda layer: (-values[layer], layer))


def _pick(values: Values, k: int) -> tuple[int, ...]:
    """The k candidates with the highest scores, ascending."""
    ranked = _ranked(values)
    _check(k, len(values))
    if k > len(ranked):
        raise PlanError(f"k is {k}, but only {len(ranked)} layers are candidates", f"give a k from 1 to {len(ranked)}")
    return tuple(sorted(ranked[:k]))


def _of_each_block(values: Values, k: int, place: Callable[[int], int]) -> tuple[int, ...]:
    """Of each block's candidates, from the highest score to the lowest, the one at `place(how many there are)`."""
    _check(k, len(values))
    chosen = []
    for block in blocks(len(values), k):
        ranked = _ranked(values[block.start : block.stop])
        if not ranked:
            raise PlanError(f"layers {block.start} to {block.stop - 1} hold no candidate", "choose fewer blocks")
        chosen.append(block.start + ranked[place(len(ranked))])
    return tuple(chosen)


def _contests(
    values: Values, chosen: Sequence[int], sign: int, groups: Sequence[range] = ()
) -> list[tuple[int, int, int]]:
    """Each chosen layer against the candidates of its group that were not chosen; all are one group by default."""
    candidates = set(_ranked(values)) - set(chosen)
    return [
        (winner, rival, sign)
        for group in groups or (range(len(values)),)
        for winner in chosen
        for rival in sorted(candidates)
        if winner in group and rival in group
    ]


@dataclass(frozen=True)
class Highest:
    """The k layers with the highest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _pick(values, self.k)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return _contests(values, self.select(values), 1)


@dataclass(frozen=True)
class Lowest:
    """The k layers with the lowest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _pick(-values, self.k)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return _contests(values, self.select(values), -1)


@dataclass(frozen=True)
class BlockHighest:
    """The highest layer of each of k contiguous blocks: PRiSM's choice (P 3.1)."""

    k: int
    name: ClassVar[str] = "block-highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(values, self.k, lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return _contests(values, self.select(values), 1, blocks(len(values), self.k))


@dataclass(frozen=True)
class BlockLowest:
    """The lowest layer of each of k contiguous blocks (T 3.1)."""

    k: int
    name: ClassVar[str] = "block-lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.k, lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return _contests(values, self.select(values), -1, blocks(len(values), self.k))


@dataclass(frozen=True)
class BlockMedian:
    """The layer with the median score of each of k blocks; of an even block, its lower middle (T table 9)."""

    k: int
    name: ClassVar[str] = "block-median"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.k, lambda many: (many - 1) // 2)


@dataclass(frozen=True)
class BlockRandom:
    """A random layer of each of k contiguous blocks (T table 9)."""

    k: int
    seed: int = 0
    name: ClassVar[str] = "block-random"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        generator = np.random.default_rng(self.seed)
        return tuple(int(generator.integers(b.start, b.stop)) for b in blocks(len(values), self.k))


@dataclass(frozen=True)
class MiddleBest:
    """The k highest layers of the middle third, floor(L/3) to floor(2 L/3) - 1 (OLFT 2.2)."""

    k: int = 1
    name: ClassVar[str] = "middle-best"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        start, stop = len(values) // 3, 2 * len(values) // 3
        if start == stop:
            raise PlanError(f"a model of {len(values)} layers has no middle third", "use another selector")
        return tuple(start + layer for layer in _pick(values[start:stop], self.k))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of the middle third."""
        return _contests(values, self.select(values), 1, (range(len(values) // 3, 2 * len(values) // 3),))


@dataclass(frozen=True)
class Suffix:
    """The layer with the highest score and all above it (SALF algorithm 3)."""

    name: ClassVar[str] = "suffix"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(range(_pick(values, 1)[0], len(values)))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The layer with the highest score against all others."""
        return _contests(values, _pick(values, 1), 1)


@dataclass(frozen=True)
class Top:
    """The k layers nearest the output: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "top"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(range(len(values) - self.k, len(values)))


@dataclass(frozen=True)
class Bottom:
    """The k layers nearest the input: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "bottom"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(range(self.k))


@dataclass(frozen=True)
class Random:
    """k random layers: a baseline of every paper."""

    k: int
    seed: int = 0
    name: ClassVar[str] = "random"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        drawn = np.random.default_rng(self.seed).choice(len(values), self.k, replace=False)
        return tuple(sorted(int(layer) for layer in drawn))


@dataclass(frozen=True)
class Explicit:
    """The layers the user names."""

    layers: Sequence[int]
    name: ClassVar[str] = "explicit"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        missing = [layer for layer in self.layers if not 0 <= layer < len(values)]
        if missing:
            raise PlanError(f"the model has no layer {missing[0]}", f"name layers from 0 to {len(values) - 1}")
        if not self.layers:
            raise PlanError("no layer is named", "name at least one with --layers")
        return tuple(sorted(set(self.layers)))
