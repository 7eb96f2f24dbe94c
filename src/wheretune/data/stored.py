"""Encoded rows that are many: written once to a file of Arrow's and read through a memory map.

As Python lists a token takes some 60 bytes, in the file about 6, and those the system may drop from memory as it likes.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from wheretune.support.files import refusal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

Row = dict[str, Any]
IN_MEMORY = 2**20  # tokens that are kept as lists
PART = 1024  # rows that are encoded and written together
SMALL = ("attention_mask", "token_type_ids")  # whose numbers take a byte each


def kept_rows(parts: Iterable[list[Row]], in_memory: int = IN_MEMORY) -> Sequence[Row]:
    """The rows of all parts: a list where they have few tokens together, and otherwise on disk.

    Rows that hold more than numbers and lists of numbers (images) stay in memory.

    Args:
        parts: Encoded rows, some at a time.
        in_memory: How many tokens are few.

    Raises:
        OutputError: There is no room on the disk.
    """
    rest = iter(parts)
    held: list[Row] = []
    tokens = 0
    for part in rest:
        held += part
        tokens += sum(len(row["input_ids"]) for row in part)
        if tokens > in_memory:
            break
    else:
        return held
    while (kinds := _kinds(held)) is None:
        part = next(rest, [])
        if not part:
            return held
        held += part
    return _stored(chain([held], rest), kinds)


class StoredRows(Sequence[Row]):
    """Rows in record batches, each made when it is asked for, the same as those that were written.

    Args:
        batches: Of Arrow's; numbers, and lists of numbers.
        tuples: The columns whose lists were tuples.
    """

    def __init__(self, batches: Sequence[pyarrow.RecordBatch], tuples: Iterable[str] = ()) -> None:
        names = batches[0].schema.names
        self._columns = [{name: _views(batch.column(name)) for name in names} for batch in batches]
        self._ends = list(accumulate(batch.num_rows for batch in batches))
        self._tuples = frozenset(tuples)

    def __len__(self) -> int:
        many: int = self._ends[-1]
        return many

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        wanted = range(len(self))[place]
        batch = bisect_right(self._ends, wanted)
        here = wanted - (self._ends[batch - 1] if batch else 0)
        return {name: self._cell(name, here, *views) for name, views in self._columns[batch].items()}

    def _cell(self, name: str, place: int, values: np.ndarray, offsets: np.ndarray | None) -> Any:
        if offsets is None:
            return values[place].item()
        cell = values[offsets[place] : offsets[place + 1]].tolist()
        return tuple(cell) if name in self._tuples else cell


def _views(column: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of a column where they lie in the file and, of lists, where each begins."""
    import pyarrow

    if pyarrow.types.is_list(column.type):
        return column.values.to_numpy(), column.offsets.to_numpy()
    return column.to_numpy(), None


def _kinds(rows: Sequence[Row]) -> dict[str, tuple[type, type]] | None:
    """By column, what a cell is and what it holds; None where rows differ, or hold more than numbers."""
    kinds: dict[str, tuple[type, type]] = {}
    for name, cell in rows[0].items():
        found = type(cell)
        inner = type(cell[0]) if found in (list, tuple) and len(cell) else found
        if inner not in (int, float):
            return None
        kinds[name] = found, inner
    return kinds if _fit(rows, kinds) else None


def _fit(rows: Sequence[Row], kinds: dict[str, tuple[type, type]]) -> bool:
    return all(
        row.keys() == kinds.keys() and all(type(row[name]) is kind for name, (kind, _) in kinds.items()) for row in rows
    )


def _stored(parts: Iterable[list[Row]], kinds: dict[str, tuple[type, type]]) -> Sequence[Row]:
    """The rows on disk; in memory after all, where a later part does not fit."""
    import pyarrow
    from pyarrow import ipc

    schema = pyarrow.schema([(name, _arrow(name, *kind)) for name, kind in kinds.items()])
    tuples = [name for name, (kind, _) in kinds.items() if kind is tuple]
    left: list[Row] = []
    rest = iter(parts)
    try:
        # The system keeps the file for as long as it is mapped; its name goes at once, whatever becomes of the process.
        with tempfile.TemporaryDirectory(prefix="wheretune-tokens-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "rows.arrow"
            with pyarrow.OSFile(str(path), "wb") as sink, ipc.new_file(sink, schema) as writer:
                for batch, part in _batches(rest, kinds, schema):
                    if batch is None:
                        left = part
                        break
                    writer.write_batch(batch)
            reader = ipc.open_file(pyarrow.memory_map(str(path)))
            batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
            made: Sequence[Row] = StoredRows(batches, tuples) if batches else []
    except OSError as error:
        raise refusal(Path(tempfile.gettempdir()), error, "name another folder (TMPDIR)") from error
    return [*made, *left, *chain.from_iterable(rest)] if left else made


def _batches(
    parts: Iterator[list[Row]], kinds: dict[str, tuple[type, type]], schema: pyarrow.Schema
) -> Iterator[tuple[pyarrow.RecordBatch | None, list[Row]]]:
    """A record batch of every part; None where a part is of other kinds."""
    import pyarrow

    for part in parts:
        if not part:
            continue
        try:
            columns = [pyarrow.array([row[field.name] for row in part], field.type) for field in schema]
        except (pyarrow.ArrowException, LookupError, TypeError, OverflowError):
            yield None, part
            continue
        yield (pyarrow.record_batch(columns, schema=schema) if _fit(part, kinds) else None), part


def _arrow(name: str, kind: type, inner: type) -> Any:
    import pyarrow

    if inner is float:
        return pyarrow.float64() if kind is float else pyarrow.list_(pyarrow.float64())
    if kind is int:
        return pyarrow.int64()
    return pyarrow.list_(pyarrow.int8() if name in SMALL else pyarrow.int32())
