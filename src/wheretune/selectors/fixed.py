"""Layers that hang on no score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import PlanError
from wheretune.selectors.base import check_k

if TYPE_CHECKING:
    from wheretune.selectors.base import Values


@dataclass(frozen=True)
class Top:
    """The k layers nearest the output: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "top"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        check_k(self.k, len(values))
        return tuple(range(len(values) - self.k, len(values)))


@dataclass(frozen=True)
class Bottom:
    """The k layers nearest the input: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "bottom"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        check_k(self.k, len(values))
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
        check_k(self.k, len(values))
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
