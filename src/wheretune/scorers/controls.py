"""Depth and random: the controls that look at nothing. Highest depth is top-k, lowest is bottom-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.records.data import check_seed
from wheretune.scorers.base import Card, Finished

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack


@dataclass(frozen=True)
class Depth:
    """The layer's own index."""

    name: ClassVar[str] = "depth"
    card: ClassVar[Card] = Card("l", "every paper's top-k and bottom-k baselines", (), "none", "highest")

    def score(self, stack: LayerStack) -> Finished:
        """0, 1, 2 ..."""
        return Finished(np.arange(len(stack), dtype=float))


@dataclass(frozen=True)
class RandomScores:
    """A uniform draw from [0, 1) per layer.

    Attributes:
        seed: Seed for the draw.
    """

    seed: int = 0
    name: ClassVar[str] = "random"
    card: ClassVar[Card] = Card("uniform(0, 1)", "every paper's random-k baseline", (), "none", "highest")

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def score(self, stack: LayerStack) -> Finished:
        """The draw."""
        return Finished(np.random.default_rng(self.seed).random(len(stack)))
