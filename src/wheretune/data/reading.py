"""Files, tables and hub data sets -> a table of rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune.data.cells import Fault, plain
from wheretune.data.columns import Column, pick
from wheretune.data.memory import rows_in
from wheretune.data.sources import read_source
from wheretune.data.spooled import Row, spooled
from wheretune.errors import DataError
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.columns import Places
    from wheretune.records.data import DataSpec

NAMED = 20  # columns that a message names
SHOWN = 5  # bad rows that a message names


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a source, as they were read.

    Attributes:
        source: What messages call it.
        rows: The rows.
        numbers: The number of each row in the source, from 0.
        starts: Where the source is several files, the number of each file's first row, and its name.
    """

    source: str
    rows: Sequence[Row]
    numbers: Sequence[int]
    starts: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name for row in self.rows for name in row)

    def has(self, column: str) -> bool:
        """Whether any row has `column`."""
        return column in self.rows[0] or column in self._names

    @property
    def columns(self) -> str:
        """The names of the first row's columns as a message says them."""
        names = list(self.rows[0])
        return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

    def column(self, name: str, field: str) -> Sequence[object]:
        """The cells of a column as `cells.plain` makes them; None where a row lacks it.

        Args:
            name: The column.
            field: The setting that names it.

        Raises:
            DataError: No row has the column.
        """
        if not self.has(name):
            encoded = field == "text_column" and self.has("input_ids")
            remedy = "give the texts, as they were before they were encoded" if encoded else "name one of them"
            raise DataError(f"{self.source} has no column {name!r} (its columns: {self.columns})", remedy, field)
        return Column(self.rows, lambda row: plain(row.get(name)))

    def folders(self) -> Sequence[Path]:
        """By row, the folder of the file that it stands in; the working folder where it stands in none."""
        found = [(first, Path(name)) for first, name in self.starts]
        every = [(first, path if path.is_dir() else path.parent if path.is_file() else Path()) for first, path in found]
        firsts = [first for first, _ in every]
        return Column(self.numbers, lambda number: every[bisect_right(firsts, number) - 1][1] if every else Path())

    def take(self, places: Places) -> Table:
        """Some of the rows."""
        return replace(self, rows=pick(self.rows, places), numbers=pick(self.numbers, places))

    def where(self, places: Sequence[int]) -> str:
        """Places in this table as the rows of the source that a person counts."""
        if len(self.starts) < 2:
            shown = [str(self.numbers[i] + 1) for i in places]
        else:
            firsts = [first for first, _ in self.starts]
            files = [self.starts[bisect_right(firsts, self.numbers[i]) - 1] for i in places]
            shown = [f"{self.numbers[i] - first + 1} of {name}" for i, (first, name) in zip(places, files, strict=True)]
        return f"row{'s' if len(places) > 1 else ''} {', '.join(shown)}"

    def faults_in_words(self, faults: Mapping[int, Fault]) -> str:
        """How many rows cannot be used, and of the first few which and why."""
        first = sorted(faults)[:SHOWN]
        reasons: dict[str, list[int]] = {}
        for place in first:
            reasons.setdefault(faults[place].why, []).append(place)
        said = ", ".join(f"{why} in {self.where(places)}" for why, places in reasons.items())
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        return f"{len(faults)} of {len(self)} rows of {self.source} cannot be used: {said}{more} (the first row is 1)"


def rows_in_words(places: Sequence[int], numbers: Sequence[int]) -> str:
    """Rows as a person counts them in the source, the first is 1."""
    shown = ", ".join(str(numbers[i] + 1) for i in places[:SHOWN])
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"row{'s' if len(places) > 1 else ''} {shown}{more} (the first row is 1)"


def read_table(spec: DataSpec, rows: Any = None) -> Table:
    """All rows of the source that `spec` names.

    Args:
        spec: Which source.
        rows: The data itself, where it is in memory and `spec.source` is only a word for it; see `memory.rows_in`.

    Raises:
        DataError: As for `read_source` and `rows_in`, or there are no rows.
    """
    parts = read_source(spec.source) if rows is None else [(spec.source, rows_in(rows))]
    every = parts[0][1] if len(parts) == 1 else spooled(row for _, part in parts for row in part)
    if not every:
        raise DataError(f"{spec.source} has no rows", "give some data")
    starts, first = [], 0
    for name, part in parts:
        starts.append((first, name))
        first += len(part)
    return Table(spec.source, every, range(len(every)), tuple(starts))


def usable(table: Table, faults: Mapping[int, Fault], bad_rows: str) -> Table:
    """The rows that can be used.

    Args:
        table: The rows.
        faults: By place in the table, why a row cannot be used.
        bad_rows: `refuse` refuses any such row, `skip` leaves it out and says so.

    Raises:
        DataError: There are such rows, and they are refused, or no other row is left.
    """
    if not faults:
        return table
    said = table.faults_in_words(faults)
    if len(faults) == len(table):
        field = faults[min(faults)].field
        raise DataError(said, f"mend the data, or name another {field.replace('_', ' ')}", field)
    if bad_rows == "refuse":
        raise DataError(said, "mend these rows, or leave them out with bad_rows=skip", "bad_rows")
    log.warning("%s; %s left out", said, "it is" if len(faults) == 1 else "they are")
    return table.take(np.delete(np.arange(len(table)), list(faults)))


def drawn(spec: DataSpec, rows: int, strata: Sequence[object] | None) -> Places:
    """The places of the rows that `spec` asks for among those that can be used: a pure function of its seed.

    `max_samples` draws first; `part` then takes a part of what was drawn, which has of every class as large a share as
    the whole has.

    Args:
        spec: How many rows, and which part of them.
        rows: How many there are.
        strata: The class of each row; None where there are none.

    Raises:
        DataError: The part holds no row.
    """
    some = spec.max_samples is not None and spec.max_samples < rows
    if not some and spec.part is None:
        return range(rows)
    places = np.arange(rows)
    if some:
        places = np.sort(np.random.default_rng(spec.seed).choice(rows, spec.max_samples, replace=False))
    if spec.part is None:
        return places
    kept = _stratified(len(places), None if strata is None else pick(strata, places), spec.seed)
    start, stop = (round(edge * len(places)) for edge in spec.part)
    if start >= stop:
        low, high = spec.part
        raise DataError(f"{high - low:.0%} of the {len(places)} rows of {spec.source} is no row", "take more", "part")
    taken: np.ndarray = np.sort(places[kept[start:stop]])
    return taken


def _stratified(rows: int, strata: Sequence[object] | None, seed: int) -> np.ndarray:
    """All places in a seeded random order in which the classes are spread evenly."""
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(rows)
    if strata is None:
        return order
    numbers: dict[object, int] = {}
    classes = np.fromiter((numbers.setdefault(one, len(numbers)) for one in strata), np.int32, rows)[order]
    _, first = np.unique(classes, return_index=True)
    places, keys = [], []
    for number in classes[np.sort(first)]:  # as they come in the random order
        own = np.flatnonzero(classes == number)
        places.append(own)
        keys.append((np.arange(len(own)) + generator.random(len(own))) / len(own))
    found: np.ndarray = order[np.concatenate(places)[np.argsort(np.concatenate(keys), kind="stable")]]
    return found
