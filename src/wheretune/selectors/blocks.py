"""One layer of each of k blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import PlanError
from wheretune.records.data import check_seed
from wheretune.selectors.base import TakesK, contests_of, rank

if TYPE_CHECKING:
    from wheretune.selectors.base import Values


@cache
def blocks(layers: int, k: int) -> tuple[range, ...]:
    """The layers in k contiguous blocks; sizes differ by at most one, the earlier blocks take the rest."""
    size, rest = divmod(layers, k)
    edges = [number * size + min(number, rest) for number in range(k + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def _of_each_block(values: Values, k: int, place: Callable[[int], int]) -> tuple[int, ...]:
    """Of each block's candidates, from the highest score to the lowest, the one at `place(how many there are)`."""
    chosen = []
    for block in blocks(len(values), k):
        ranked = rank(values[block.start : block.stop])
        if not ranked:
            raise PlanError(f"layers {block.start} to {block.stop - 1} hold no candidate", "choose fewer blocks", "k")
        chosen.append(block.start + ranked[place(len(ranked))])
    return tuple(chosen)


@dataclass(frozen=True)
class BlockHighest(TakesK):
    """The highest layer of each of k contiguous blocks: PRiSM's choice (section 3.1)."""

    name: ClassVar[str] = "block-highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(values, self.count(len(values)), lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return contests_of(values, self.select(values), 1, blocks(len(values), self.count(len(values))))


@dataclass(frozen=True)
class BlockLowest(TakesK):
    """The lowest layer of each of k contiguous blocks (PRiSM's journal version, 3.1)."""

    name: ClassVar[str] = "block-lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.count(len(values)), lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return contests_of(values, self.select(values), -1, blocks(len(values), self.count(len(values))))


@dataclass(frozen=True)
class BlockMedian(TakesK):
    """The layer with the median score of each of k blocks (PRiSM's journal version, table 9).

    Of an even block it is the lower middle.
    """

    name: ClassVar[str] = "block-median"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.count(len(values)), lambda many: (many - 1) // 2)


@dataclass(frozen=True)
class BlockRandom(TakesK):
    """A random layer of each of k contiguous blocks (PRiSM's journal version, table 9)."""

    seed: int = 0
    name: ClassVar[str] = "block-random"
    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        generator = np.random.default_rng(self.seed)
        return tuple(int(generator.integers(b.start, b.stop)) for b in blocks(len(values), self.count(len(values))))
