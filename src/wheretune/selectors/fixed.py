"""Layers that hang on no score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import PlanError
from wheretune.records.data import check_seed
from wheretune.selectors.base import TakesK

if TYPE_CHECKING:
    from wheretune.selectors.base import Values


@dataclass(frozen=True)
class Top(TakesK):
    """The k layers nearest the output: a baseline of every paper."""

    name: ClassVar[str] = "top"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(range(len(values) - self.count(len(values)), len(values)))


@dataclass(frozen=True)
class Bottom(TakesK):
    """The k layers nearest the input: a baseline of every paper."""

    name: ClassVar[str] = "bottom"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(range(self.count(len(values))))


@dataclass(frozen=True)
class Random(TakesK):
    """k random layers: a baseline of every paper."""

    seed: int = 0
    name: ClassVar[str] = "random"
    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        drawn = np.random.default_rng(self.seed).choice(len(values), self.count(len(values)), replace=False)
        return tuple(sorted(int(layer) for layer in drawn))


@dataclass(frozen=True)
class Explicit:
    """The layers the user names.

    Attributes:
        layers: The layers, counted from 0; those of an encoder-decoder as in `decoder.3`.
        every: In place of names: all layers.
    """

    layers: tuple[int | str, ...] = ()
    every: bool = False
    name: ClassVar[str] = "explicit"
    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if bool(self.layers) == self.every:
            what = "layers are named, and every layer is asked for" if self.every else "no layer is named"
            raise PlanError(what, "name at least one layer, or ask for all", "layers")

    def resolved(self, layers: int) -> Explicit:
        """The same choice by name."""
        return replace(self, layers=self._of(layers), every=False)

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return self._of(len(values))

    def _of(self, count: int) -> tuple[int, ...]:
        known = [layer for layer in self.layers if isinstance(layer, int) and 0 <= layer < count]
        missing = [layer for layer in self.layers if layer not in known]
        if missing:
            raise PlanError(f"the model has no layer {missing[0]}", f"name layers from 0 to {count - 1}", "layers")
        return tuple(range(count)) if self.every else tuple(sorted(set(known)))
