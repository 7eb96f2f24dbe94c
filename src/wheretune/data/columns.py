"""Columns of many rows without a list of them: what is made of a cell when it is asked for, and some of the rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

MANY = 2**14  # rows; more lie on disk

Cell = TypeVar("Cell")
Places = Sequence[int] | np.ndarray


def many(rows: int) -> bool:
    """Whether so many rows lie on disk rather than in memory."""
    return rows > MANY


class Column(Sequence[Cell]):
    """Something made of every cell of another column, each time that it is asked for.

    Args:
        cells: The other column.
        make: What is made of a cell.
    """

    def __init__(self, cells: Sequence[Any], make: Callable[[Any], Cell]) -> None:
        self._cells, self._make = cells, make

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return map(self._make, self._cells)

    @overload
    def __getitem__(self, place: int) -> Cell: ...

    @overload
    def __getitem__(self, place: slice) -> Column[Cell]: ...

    def __getitem__(self, place: int | slice) -> Cell | Column[Cell]:
        found = self._cells[place]
        return Column(found, self._make) if isinstance(place, slice) else self._make(found)


class Zipped(Sequence[tuple[Any, ...]]):
    """Columns of one length side by side, row by row.

    Args:
        columns: One or more.
    """

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self._columns, strict=True)

    @overload
    def __getitem__(self, place: int) -> tuple[Any, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[Any, ...]]: ...

    def __getitem__(self, place: int | slice) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        found = [column[place] for column in self._columns]
        return list(zip(*found, strict=True)) if isinstance(place, slice) else tuple(found)


class OneByOne(Sequence[Cell]):
    """Cells that are each looked up by themselves; a slice of them is a list."""

    @abstractmethod
    def cell(self, place: int) -> Cell:
        """The cell at a place from 0."""

    @overload
    def __getitem__(self, place: int) -> Cell: ...

    @overload
    def __getitem__(self, place: slice) -> list[Cell]: ...

    def __getitem__(self, place: int | slice) -> Cell | list[Cell]:
        found = range(len(self))[place]
        return self.cell(found) if isinstance(found, int) else [self.cell(one) for one in found]


class Picked(OneByOne[Cell]):
    """Some of the cells of another column.

    Args:
        cells: The other column.
        places: Which, in their order.
    """

    def __init__(self, cells: Sequence[Cell], places: Int[np.ndarray, " place"]) -> None:
        self._cells, self._places = cells, places

    def __len__(self) -> int:
        return len(self._places)

    def cell(self, place: int) -> Cell:
        return self._cells[int(self._places[place])]

    def pick(self, places: Int[np.ndarray, " place"]) -> Picked[Cell]:
        """Some of these."""
        return Picked(self._cells, self._places[places])


def pick(cells: Sequence[Cell], places: Places) -> Sequence[Cell]:
    """Some of the cells of a column, in the order of their places: a tuple where they are few."""
    if many(len(places)):
        if isinstance(places, range) and places == range(len(cells)):
            return cells
        array: np.ndarray = np.asarray(places)
        return cells.pick(array) if isinstance(cells, Picked) else Picked(cells, array)
    if isinstance(places, range) and places.step == 1:
        return tuple(cells[places.start : places.stop])
    return tuple(cells[int(place)] for place in places)
