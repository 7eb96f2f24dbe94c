"""Rows -> checked texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wheretune.errors import DataError

if TYPE_CHECKING:
    from wheretune.data.reading import Row
    from wheretune.records.data import DataInfo


@dataclass(frozen=True)
class TextData:
    """Texts and labels that have been checked.

    Attributes:
        info: Where they came from and what task they make.
        texts: One or two strings a row.
        labels: Class indices (classification), numbers (regression) or None (unlabelled).
        rows: The row of each text in its source, from 0.
        continuations: What follows each text, where `target_column` names it.
    """

    info: DataInfo
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[float, ...] | None
    rows: tuple[int, ...]
    continuations: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def require_column(source: str, rows: Sequence[Row], column: str) -> None:
    """Complains when no row has `column`."""
    if not any(column in row for row in rows):
        there = ", ".join(rows[0])
        raise DataError(
            f"{source} has no column {column!r} (its columns: {there})",
            "name the columns with --text-column, --pair-column and --label-column",
        )


def encodable(text: str) -> bool:
    """Whether every character of a text is whole."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def as_text(value: object) -> str:
    """A cell as text; nothing where it is missing."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def rows_in_words(indices: Sequence[int], numbers: Sequence[int]) -> str:
    """Rows as a person counts them in the source, the first is 1."""
    shown = ", ".join(str(numbers[i] + 1) for i in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more} (the first row is 1)"


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
