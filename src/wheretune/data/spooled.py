"""Rows that are many, as they were read: written to a file some at a time and read back as they are looked through."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, overload

from wheretune.data.columns import many
from wheretune.support.files import refusal

Row = Mapping[str, Any]
BLOCK = 1024  # rows that are written and read together


def spooled(rows: Iterable[Row]) -> Sequence[Row]:
    """The rows: a list where they are few, and otherwise in a file that is gone with them.

    Raises:
        OutputError: There is no room on the disk.
    """
    if isinstance(rows, Sequence):
        return rows
    rest = iter(rows)
    held: list[Row] = []
    for row in rest:
        held.append(row)
        if many(len(held)):
            return SpooledRows(chain(held, rest))
    return held


class SpooledRows(Sequence[Row]):
    """Rows in blocks on disk, any Python objects in them; made to be read in order.

    Raises:
        OutputError: There is no room on the disk.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._starts = [0]
        self._rows = 0
        self._latest: tuple[int, list[Row]] = (-1, [])
        rest = iter(rows)
        self._file: BinaryIO = _unnamed()
        while block := list(islice(rest, BLOCK)):
            try:
                self._starts.append(self._starts[-1] + self._file.write(pickle.dumps(block, pickle.HIGHEST_PROTOCOL)))
            except OSError as error:
                raise _no_room(error) from error
            self._rows += len(block)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(map(self._block, range(len(self._starts) - 1)))

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        number, here = divmod(range(len(self))[place], BLOCK)
        if self._latest[0] != number:
            self._latest = (number, self._block(number))
        return self._latest[1][here]

    def _block(self, number: int) -> list[Row]:
        start, stop = self._starts[number : number + 2]
        self._file.seek(start)
        block: list[Row] = pickle.loads(self._file.read(stop - start))  # what this very process has written
        return block


def _unnamed() -> Any:
    """A file that no other process can open."""
    try:
        return tempfile.TemporaryFile(prefix="wheretune-rows-")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> Exception:
    return refusal(Path(tempfile.gettempdir()), error, "name another folder (TMPDIR)")
