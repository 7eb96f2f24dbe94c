"""Data that is in memory as texts and labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from wheretune.errors import DataError
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import load_data

if TYPE_CHECKING:
    from wheretune.data.texts import TextData


def from_texts(
    texts: Iterable[object],
    labels: Iterable[object] | None = None,
    *,
    task: str = "auto",
    max_length: int | None = None,
    name: str = "memory",
) -> TextData:
    """Data that is already in memory, as texts and labels; `load_data` takes data sets, frames and lists of dicts.

    Args:
        texts: One string per row, or a pair of strings per row.
        labels: Per row a class (string or whole number) or a number, also as an array or a tensor; scoring needs none.
        task: The name of a task; `auto` makes a regression of numbers that are not all whole.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        name: What to call the data in results.

    Raises:
        DataError: As for `load_data`, or the lengths differ, or some rows are pairs and some are not.
    """
    parts = [tuple(text) if isinstance(text, tuple | list) else (text,) for text in texts]
    values = None if labels is None else list(labels)
    if values is not None and len(values) != len(parts):
        raise DataError(f"{len(parts)} texts and {len(values)} labels", "give as many of the one as of the other")
    if not all(len(part) in (1, 2) for part in parts):
        raise DataError("a row has neither one text nor two", "give a string or a pair of strings per row")
    if len({len(part) for part in parts}) > 1:
        raise DataError("some rows are pairs of texts and some are not", "give the one or the other")
    columns = ("text", "pair")[: len(parts[0]) if parts else 1]
    rows: list[dict[str, object]] = [dict(zip(columns, part, strict=True)) for part in parts]
    if values is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, values, strict=True)]
    params = {"pair_column": "pair"} if "pair" in columns else {}
    return load_data(DataSpec(name, Spec(task, params), max_length=max_length), labels="optional", rows=rows)
