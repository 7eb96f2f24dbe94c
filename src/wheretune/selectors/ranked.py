"""Layers by the rank of their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import PlanError
from wheretune.selectors.base import TakesK, contests_of, pick

if TYPE_CHECKING:
    from wheretune.selectors.base import Values


@dataclass(frozen=True)
class Highest(TakesK):
    """The k layers with the highest scores (PRiSM's journal version, 3.1)."""

    name: ClassVar[str] = "highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return pick(values, self.count(len(values)))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return contests_of(values, self.select(values), 1)


@dataclass(frozen=True)
class Lowest(TakesK):
    """The k layers with the lowest scores (PRiSM's journal version, 3.1)."""

    name: ClassVar[str] = "lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return pick(-values, self.count(len(values)))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return contests_of(values, self.select(values), -1)


@dataclass(frozen=True)
class MiddleBest(TakesK):
    """The k highest layers of the middle third, floor(L/3) to floor(2 L/3) - 1 (OLFT 2.2)."""

    name: ClassVar[str] = "middle-best"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        start, stop = len(values) // 3, 2 * len(values) // 3
        if start == stop:
            raise PlanError(f"a model of {len(values)} layers has no middle third", "use another selector")
        return tuple(start + layer for layer in pick(values[start:stop], self.count(len(values))))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of the middle third."""
        return contests_of(values, self.select(values), 1, (range(len(values) // 3, 2 * len(values) // 3),))


@dataclass(frozen=True)
class Suffix:
    """The layer with the highest score and all above it (SALF algorithm 3)."""

    name: ClassVar[str] = "suffix"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(range(pick(values, 1)[0], len(values)))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The layer with the highest score against all others."""
        return contests_of(values, pick(values, 1), 1)
