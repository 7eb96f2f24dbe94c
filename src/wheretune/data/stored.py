"""Encoded rows that are many: written once to a file of Arrow's and read through a memory map.

As Python lists a token takes some 60 bytes, in the file about 6, and those the system may drop from memory as it likes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune.data.columns import OneByOne
from wheretune.data.kept_tokens import Recipe, keep, opened
from wheretune.data.mapped import MappedBatches, lists, numbers

if TYPE_CHECKING:
    import pyarrow
    from jaxtyping import Int

Row = dict[str, Any]
IN_MEMORY = 2**18  # tokens that are kept as lists
PART = 1024  # rows that are encoded and written together
CODES = {"int8": "b", "int32": "i", "int64": "q", "double": "d"}  # Arrow's kinds, as Python's own arrays call them
SMALL = ("attention_mask", "token_type_ids")  # whose numbers take a byte each


def kept_rows(
    parts: Iterable[list[Row]], recipe: Recipe | None = None, *, in_memory: int | None = None
) -> Sequence[Row]:
    """The rows of all parts: a list where they have few tokens together, and otherwise on disk.

    Rows that hold more than numbers and lists of numbers (images) stay in memory.

    Args:
        parts: Encoded rows, some at a time; the rest is not made where an earlier process has kept the rows.
        recipe: What they are made of, by which they are kept for the next process; None keeps none.
        in_memory: How many tokens are few.

    Raises:
        OutputError: There is no room on the disk.
    """
    in_memory = IN_MEMORY if in_memory is None else in_memory
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
    key = None if recipe is None else recipe.digest()
    if recipe is None or key is None:
        return _stored(chain([held], rest), kinds)
    if (found := opened(key)) is not None:
        file, about = found
        recipe.said[:] = about["said"]
        return StoredRows(file, about["tuples"])
    rows = _stored(chain([held], rest), kinds)
    if isinstance(rows, StoredRows):
        keep(key, rows.file, {"said": recipe.said, "tuples": sorted(rows.tuples)})
    return rows


class StoredRows(OneByOne[Row]):
    """Rows in record batches, each made when it is asked for, the same as those that were written.

    Args:
        file: Numbers, and lists of numbers.
        tuples: The columns whose lists were tuples.
    """

    def __init__(self, file: MappedBatches, tuples: Iterable[str] = ()) -> None:
        self.file = file
        self._columns = [{name: _views(batch.column(name)) for name in batch.schema.names} for batch in file.batches]
        self.tuples = frozenset(tuples)

    def __len__(self) -> int:
        return len(self.file)

    def cell(self, place: int) -> Row:
        batch, here = self.file.find(place)
        return {name: self._cell(name, here, *views) for name, views in self._columns[batch].items()}

    def _cell(self, name: str, place: int, values: np.ndarray, offsets: np.ndarray | None) -> Any:
        if offsets is None:
            return values[place].item()
        cell = values[offsets[place] : offsets[place + 1]].tolist()
        return tuple(cell) if name in self.tuples else cell

    def lengths(self) -> Int[np.ndarray, " row"]:
        """How many tokens every row has."""
        every = [np.empty(0, dtype=np.int32)]
        for columns in self._columns:
            self.file.let_go()
            offsets = columns["input_ids"][1]
            assert offsets is not None
            every.append(np.diff(offsets))
        return np.concatenate(every)


def lengths(rows: Sequence[Mapping[str, Any]]) -> Int[np.ndarray, " row"]:
    """How many tokens every row has."""
    return rows.lengths() if isinstance(rows, StoredRows) else np.array([len(row["input_ids"]) for row in rows], int)


def _views(column: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of a column where they lie in the file and, of lists, where each begins."""
    import pyarrow

    if pyarrow.types.is_list(column.type):
        return _views(column.values)[0], np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)
    return np.frombuffer(column.buffers()[1], CODES[str(column.type)], len(column)), None


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

    schema = pyarrow.schema([(name, _arrow(name, *kind)) for name, kind in kinds.items()])
    left: list[Row] = []
    rest = iter(parts)

    def fitting() -> Iterator[pyarrow.RecordBatch]:
        for batch, part in _batches(rest, kinds, schema):
            if batch is None:
                left.extend(part)
                return
            yield batch

    tuples = [name for name, (kind, _) in kinds.items() if kind is tuple]
    made = StoredRows(MappedBatches.written(fitting(), schema), tuples)
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
            columns = [_column([row[field.name] for row in part], field.type) for field in schema]
        except (LookupError, TypeError, OverflowError):
            yield None, part
            continue
        yield (pyarrow.RecordBatch.from_arrays(columns, schema=schema) if _fit(part, kinds) else None), part


def _column(cells: list[Any], kind: Any) -> Any:
    """An array of Arrow's.

    Raises:
        TypeError: A cell is of another kind, as what Python's own array takes no floats for whole numbers.
        OverflowError: A number is too large for this kind.
    """
    import pyarrow

    if not pyarrow.types.is_list(kind):
        return numbers(array(CODES[str(kind)], cells), kind)
    values = array(CODES[str(kind.value_type)])
    for cell in cells:
        values.extend(cell)
    return lists(numbers(values, kind.value_type), map(len, cells))


def _arrow(name: str, kind: type, inner: type) -> Any:
    import pyarrow

    if inner is float:
        return pyarrow.float64() if kind is float else pyarrow.list_(pyarrow.float64())
    if kind is int:
        return pyarrow.int64()
    return pyarrow.list_(pyarrow.int8() if name in SMALL else pyarrow.int32())
