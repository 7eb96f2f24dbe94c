"""Scores -> layers. A selector is a frozen object of settings with `select(values)`.

Layers come back ascending, counted from 0. Ties go to the lower layer. Selecting nothing, or more layers
than there are, is an error, never a silent full fine-tuning.
"""

from collections.abc import Sequence
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


def blocks(layers: int, k: int) -> tuple[range, ...]:
    """The layers in k contiguous blocks; sizes differ by at most one, the earlier blocks take the rest."""
    size, rest = divmod(layers, k)
    edges = [number * size + min(number, rest) for number in range(k + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def _check(k: int, layers: int) -> None:
    if not 1 <= k <= layers:
        raise PlanError(f"k is {k}, but the model has {layers} layers", f"give a k from 1 to {layers}")


def _ranked(values: Values) -> list[int]:
    """Layers from the highest score to the lowest, ties to the lower layer."""
    return sorted(range(len(values)), key=lambda layer: (-values[layer], layer))


@dataclass(frozen=True)
class Highest:
    """The k layers with the highest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(sorted(_ranked(values)[: self.k]))


@dataclass(frozen=True)
class Lowest:
    """The k layers with the lowest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(sorted(_ranked(-values)[: self.k]))


@dataclass(frozen=True)
class BlockHighest:
    """The highest layer of each of k contiguous blocks: PRiSM's choice (P 3.1)."""

    k: int
    name: ClassVar[str] = "block-highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(b.start + _ranked(values[b.start : b.stop])[0] for b in blocks(len(values), self.k))


@dataclass(frozen=True)
class BlockLowest:
    """The lowest layer of each of k contiguous blocks (T 3.1)."""

    k: int
    name: ClassVar[str] = "block-lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return BlockHighest(self.k).select(-values)


@dataclass(frozen=True)
class BlockMedian:
    """The layer with the median score of each of k blocks; of an even block, its lower middle (T table 9)."""

    k: int
    name: ClassVar[str] = "block-median"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(
            b.start + _ranked(-values[b.start : b.stop])[(len(b) - 1) // 2] for b in blocks(len(values), self.k)
        )


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
