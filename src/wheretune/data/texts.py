"""Rows -> checked texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune.errors import DataError

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.records.data import DataInfo


@dataclass(frozen=True)
class TextData:
    """Texts that have been checked, with what the task made of their labels.

    Attributes:
        info: Where they came from and what task they make.
        texts: One or two strings per row.
        labels: The label of each row as the task reads it (a class index, a number); None where there are none.
        rows: The row of each text in its source, from 0.
        continuations: What follows each text, where the task names a column for it.
    """

    info: DataInfo
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[Any, ...] | None
    rows: tuple[int, ...]
    continuations: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(table: Table, columns: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The texts of each row.

    Args:
        table: The rows.
        columns: By setting, the column that it names.

    Raises:
        DataError: A column is missing, or a text is empty or not encodable.
    """
    cells = [[as_text(cell) for cell in table.column(name, field)] for field, name in columns.items()]
    texts = list(zip(*cells, strict=True))
    empty = [place for place, parts in enumerate(texts) if not all(text.strip() for text in parts)]
    if empty:
        raise DataError(
            f"{table.source} has empty text in {table.where(empty)}", "remove these rows or give them a text"
        )
    broken = [place for place, parts in enumerate(texts) if not all(encodable(text) for text in parts)]
    if broken:
        raise DataError(
            f"{table.source} has half a character (a lone surrogate) in {table.where(broken)}", "mend these rows"
        )
    return texts


def encodable(text: str) -> bool:
    """Whether every character of a text is whole."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def as_text(value: object) -> str:
    """A cell as text; nothing where it is missing."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def shuffled(data: TextData, seed: int) -> TextData:
    """The same rows in a seeded random order, each with its row in the source."""
    return take(data, np.random.default_rng(seed).permutation(len(data)).tolist())


def take(data: TextData, places: Sequence[int]) -> TextData:
    """Some of the rows, in the order of `places`, each with its row in the source; `info` stays that of all."""
    return replace(
        data,
        texts=tuple(data.texts[i] for i in places),
        labels=None if data.labels is None else tuple(data.labels[i] for i in places),
        rows=tuple(data.rows[i] for i in places),
        continuations=None if data.continuations is None else tuple(data.continuations[i] for i in places),
    )
