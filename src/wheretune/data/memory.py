"""Data that is already in memory -> rows: data sets, data frames, tables, lists and columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from wheretune.data.files import arrow_rows, named_once, with_classes
from wheretune.data.spooled import BLOCK, Row, spooled
from wheretune.errors import DataError
from wheretune.support.log import log

KINDS = (
    "a list of dicts or of strings, a dict of columns, a Dataset, a DatasetDict, a frame of pandas or polars, or "
    "from_texts(texts, labels)"
)


def rows_in(data: Any) -> Sequence[Row]:
    """The rows of `data`.

    Args:
        data: A list of dicts, or of strings, which become the column `text`; a dict of columns; a `datasets.Dataset`;
            a `DatasetDict`, of which `train` is read; a frame or a series of pandas or polars; a table of Arrow's.

    Raises:
        DataError: It is none of these.
    """
    for library, classes, read in KNOWN:
        module = sys.modules.get(library)  # what nobody has opened has made no object
        if module is not None and isinstance(data, tuple(getattr(module, name) for name in classes)):
            return spooled(read(data))
    if isinstance(data, Mapping):
        return spooled(_of_columns(data))
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise DataError(f"a {type(data).__name__} holds no rows", f"give {KINDS}")
    return _of_list(list(data))


def _of_splits(data: Any) -> Sequence[Row]:
    return rows_in(data[_one_split(list(data))])


def _of_dataset(data: Any) -> Iterable[Row]:
    """Without a format, which may hide columns; a transform of the user's own is left."""
    return _of_stream(data if data.format["type"] == "custom" else data.with_format(None))


def _of_stream(data: Any) -> Iterable[Row]:
    return with_classes(data, dataset_classes(data))


def dataset_classes(data: Any) -> dict[str, list[str]]:
    """By column, the names of the classes that a data set of `datasets` says it has."""
    return {column: one.names for column, one in (data.features or {}).items() if hasattr(one, "names")}


def _of_pandas(frame: Any) -> Iterable[Row]:
    frame = frame.set_axis(named_once([str(name) for name in frame.columns]), axis=1)
    parts = (frame.iloc[start : start + BLOCK] for start in range(0, len(frame), BLOCK))
    return chain.from_iterable(part.to_dict("records") for part in parts)


def _of_polars(frame: Any) -> Iterable[Row]:
    rows: Iterable[Row] = frame.lazy().collect().to_dicts()
    return rows


def _of_arrow(table: Any) -> Iterable[Row]:
    return arrow_rows(table.to_batches(max_chunksize=BLOCK), table.schema)


KNOWN: tuple[tuple[str, tuple[str, ...], Callable[[Any], Iterable[Row]]], ...] = (
    ("datasets", ("DatasetDict", "IterableDatasetDict"), _of_splits),
    ("datasets", ("Dataset",), _of_dataset),
    ("datasets", ("IterableDataset",), _of_stream),
    ("pandas", ("DataFrame",), _of_pandas),
    ("polars", ("DataFrame", "LazyFrame"), _of_polars),
    ("pyarrow", ("Table",), _of_arrow),
)


def _one_split(splits: list[str]) -> str:
    chosen = "train" if "train" in splits else splits[0]
    if len(splits) > 1 and "train" not in splits:
        raise DataError(f"the data set has the splits {', '.join(splits)}", "hand over one of them: data[split]")
    if len(splits) > 1:
        log.warning("of the splits %s, %s is read", ", ".join(splits), chosen)
    return chosen


def _of_columns(columns: Mapping[Any, Any]) -> Iterable[Row]:
    lengths = {
        len(cells) if hasattr(cells, "__len__") and not isinstance(cells, str) else -1 for cells in columns.values()
    }
    if len(lengths) != 1 or -1 in lengths:
        raise DataError("the columns are not lists of one length", f"give {KINDS}")
    names = list(map(str, columns))
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def _of_list(rows: list[Any]) -> list[Row]:
    if all(isinstance(row, Mapping) for row in rows):
        return rows
    wrong = next((place for place, row in enumerate(rows) if not (row is None or isinstance(row, str))), None)
    if wrong is not None:
        what = type(rows[wrong]).__name__
        raise DataError(f"row {wrong + 1} is a {what}, neither a dict nor a string", f"give {KINDS}")
    return [{"text": row} for row in rows]
