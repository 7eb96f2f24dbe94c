"""Checked texts that are many: written once to a file of Arrow's and read through a memory map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, overload

from wheretune.data.columns import many
from wheretune.data.mapped import MappedBatches, lists, strings

if TYPE_CHECKING:
    import pyarrow

Texts = tuple[str, ...]
PART = 1024  # rows that are written together


def kept_texts(texts: Iterable[Texts]) -> Sequence[Texts]:
    """One or more texts per row: a tuple where the rows are few, and otherwise on disk.

    Raises:
        OutputError: There is no room on the disk.
    """
    held: list[Texts] = []
    rest = iter(texts)
    for one in rest:
        held.append(one)
        if many(len(held)):
            return StoredTexts(chain(held, rest))
    return tuple(held)


class StoredTexts(Sequence[Texts]):
    """The texts of rows in record batches, made when they are asked for.

    Args:
        texts: By row; a row may have more than another.
    """

    def __init__(self, texts: Iterable[Texts]) -> None:
        import pyarrow

        schema = pyarrow.schema([("texts", pyarrow.list_(pyarrow.large_string()))])
        self._file = MappedBatches.written(_batches(iter(texts), schema), schema)

    def __len__(self) -> int:
        return len(self._file)

    def __iter__(self) -> Iterator[Texts]:
        for number in range(len(self._file.batches)):
            self._file.let_go()
            yield from self._read(number, slice(None))

    @overload
    def __getitem__(self, place: int) -> Texts: ...

    @overload
    def __getitem__(self, place: slice) -> list[Texts]: ...

    def __getitem__(self, place: int | slice) -> Texts | list[Texts]:
        if not isinstance(place, slice):
            number, here = self._file.find(place)
            return self._read(number, slice(here, here + 1))[0]
        start, stop, step = place.indices(len(self))
        if step != 1:
            return [self[one] for one in range(start, stop, step)]
        return [one for number, here in self._file.parts(start, stop) for one in self._read(number, here)]

    def _read(self, number: int, places: slice) -> list[Texts]:
        every: list[list[str]] = self._file.batches[number].column(0)[places].to_pylist()
        return list(map(tuple, every))


def _batches(texts: Iterator[Texts], schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    while part := list(islice(texts, PART)):
        column = lists(strings(chain.from_iterable(part)), map(len, part))
        yield pyarrow.RecordBatch.from_arrays([column], schema=schema)
