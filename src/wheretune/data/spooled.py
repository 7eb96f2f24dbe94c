"""Rows that are many, as they were read: written to a file some at a time and read back as they are looked through."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from wheretune.data.columns import OneByOne, many
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


class SpooledRows(OneByOne[Row]):
    """Rows in blocks on disk, as JSON; made to be read in order. Blocks that JSON would change (dates) stay in memory.

    Raises:
        OutputError: There is no room on the disk.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._blocks: list[tuple[int, int] | list[Row]] = []  # where each begins and how long it is, or itself
        self._rows = 0
        self._latest: tuple[int, list[Row]] = (-1, [])
        rest, end = iter(rows), 0
        self._file: BinaryIO = _unnamed()
        while block := list(islice(rest, BLOCK)):
            self._rows += len(block)
            if (said := _said(block)) is None:
                self._blocks.append(block)
                continue
            try:
                self._file.write(said)
            except OSError as error:
                raise _no_room(error) from error
            self._blocks.append((end, len(said)))
            end += len(said)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(map(self._block, range(len(self._blocks))))

    def cell(self, place: int) -> Row:
        number, here = divmod(place, BLOCK)
        if self._latest[0] != number:
            self._latest = (number, self._block(number))
        return self._latest[1][here]

    def _block(self, number: int) -> list[Row]:
        block = self._blocks[number]
        if isinstance(block, list):
            return block
        self._file.seek(block[0])
        read: list[Row] = json.loads(self._file.read(block[1]))
        return read


def _said(block: list[Row]) -> bytes | None:
    """A block as JSON, where that says it exactly."""
    try:
        said = json.dumps(block).encode()
        return said if json.loads(said) == block else None
    except (TypeError, ValueError):
        return None


def _unnamed() -> Any:
    """A file that no other process can open."""
    try:
        return tempfile.TemporaryFile(prefix="wheretune-rows-")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> Exception:
    return refusal(Path(tempfile.gettempdir()), error, "name another folder (TMPDIR)")
