"""Files, tables and hub data sets -> rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wheretune.errors import DataError
from wheretune.support.hub import HUB_SECONDS, ask_hub
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec

FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a source, as they were read.

    Attributes:
        source: What messages call it.
        rows: The rows.
        numbers: The number of each row in the source, from 0.
    """

    source: str
    rows: Sequence[Row]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, column: str) -> bool:
        """Whether any row has `column`."""
        return any(column in row for row in self.rows)

    def column(self, name: str, field: str) -> list[object]:
        """The cells of a column; None where a row lacks it.

        Args:
            name: The column.
            field: The setting that names it.

        Raises:
            DataError: No row has the column.
        """
        if not self.has(name):
            there = ", ".join(self.rows[0])
            raise DataError(f"{self.source} has no column {name!r} (its columns: {there})", "name one of them", field)
        return [row.get(name) for row in self.rows]

    def where(self, places: Sequence[int]) -> str:
        """Places in this table as the rows of the source that a person counts; see `rows_in_words`."""
        return rows_in_words(places, self.numbers)


def rows_in_words(places: Sequence[int], numbers: Sequence[int]) -> str:
    """Rows as a person counts them in the source, the first is 1."""
    shown = ", ".join(str(numbers[i] + 1) for i in places[:5])
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return f"row{'s' if len(places) > 1 else ''} {shown}{more} (the first row is 1)"


def read_table(spec: DataSpec, rows: Sequence[Row] | None = None) -> Table:
    """The rows that `spec` names: all of them, or `max_samples` of them, drawn with its seed.

    Args:
        spec: Which source, how many rows of it, and the seed of the draw.
        rows: The rows themselves, where they are in memory and `spec.source` is only a word for them.

    Raises:
        DataError: As for `read_rows`, or there are no rows.
    """
    rows = read_rows(spec.source) if rows is None else rows
    if not rows:
        raise DataError(f"{spec.source} has no rows", "give some data")
    if spec.max_samples is None or spec.max_samples >= len(rows):
        return Table(spec.source, rows, tuple(range(len(rows))))
    drawn = np.random.default_rng(spec.seed).choice(len(rows), spec.max_samples, replace=False)
    numbers = tuple(sorted(int(number) for number in drawn))
    return Table(spec.source, [rows[number] for number in numbers], numbers)


def read_rows(source: str) -> list[Row]:
    """The rows of a local file or of a hub data set.

    Args:
        source: A file (`.jsonl`, `.jsonl.gz`, `.csv`, `.tsv`, `.parquet`) or `name:config:split`.

    Raises:
        DataError: It does not exist, or cannot be read as what its ending says.
    """
    path = Path(source)
    if path.is_file():
        kind = next((ending for ending in FORMATS if source.lower().endswith(ending)), None)
        if kind is None:
            raise DataError(f"{source} has an ending that is not known", f"give one of {', '.join(FORMATS)}")
        try:
            rows = _READERS[kind](path)
        except DataError:
            raise
        except Exception as error:
            why = f"{source} cannot be read as {kind} ({first_line(error)})"
            raise DataError(why, "check the file and its ending") from error
    elif source.count(":") == 2 and not source.lower().endswith(FORMATS):
        rows = _read_hub(*source.split(":"))
    else:
        raise DataError(f"no such file: {source}", "check the path, or name a hub data set as name:config:split")
    if not rows:
        raise DataError(f"{source} has no rows", "give a file with data")
    return rows


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON ({error})", "mend the line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is no JSON object", 'write {"text": ..., "label": ...}')
            rows.append(row)
    return rows


def _read_separated(separator: str) -> Callable[[Path], list[Row]]:
    def read(path: Path) -> list[Row]:
        csv.field_size_limit(2**31 - 1)
        text = path.read_text(encoding="utf-8-sig")
        try:
            return _parse(path, text, separator, csv.QUOTE_MINIMAL)
        except csv.Error:
            if separator != "\t":
                raise
            return _parse(path, text, separator, csv.QUOTE_NONE)  # as GLUE's files, where a quote is a character

    return read


def _parse(path: Path, text: str, separator: str, quoting: Literal[0, 3]) -> list[Row]:
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=separator, restval="", quoting=quoting, strict=True)
    rows: list[Row] = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(f"{path} row {number} has more cells than the header", "quote its text")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".parquet": _read_parquet,
}


def _read_hub(name: str, config: str, split: str) -> list[Row]:
    from huggingface_hub import HfApi

    try:
        ask_hub(lambda: HfApi().dataset_info(name, timeout=HUB_SECONDS))
        from datasets import load_dataset

        loaded = load_dataset(name, config or None, split=split)
    except Exception as error:
        raise DataError(
            f"the hub does not give the data set {name}:{config}:{split} ({first_line(error)})",
            "check the name and the network, or give a local file",
        ) from error
    names = {column: feature.names for column, feature in loaded.features.items() if hasattr(feature, "names")}
    return [
        {key: names[key][value] if key in names and value >= 0 else value for key, value in row.items()}
        for row in loaded
    ]
