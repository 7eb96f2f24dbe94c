"""Rows -> checked texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune.data.cells import MAYBE_GAPS, Fault, kind, whole_text
from wheretune.data.columns import Column, Zipped, pick
from wheretune.data.stored_texts import kept_texts
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.columns import Places
    from wheretune.data.reading import Table
    from wheretune.records.data import DataInfo


@dataclass(frozen=True)
class TextData:
    """Texts that have been checked, with what the task made of their labels.

    The columns of few rows are tuples; those of many lie on disk or are arrays, see `columns.many`.

    Attributes:
        info: Where they came from and what task they make.
        texts: One or two strings per row.
        labels: The label of each row as the task reads it (a class index, a number); None where there are none.
        rows: The row of each text in its source, from 0.
        continuations: What follows each text, where the task names a column for it.
        unread: By row of the source, why a row that is left out could not be used.
        images: The files of each row's images, where the task reads any.
    """

    info: DataInfo
    texts: Sequence[tuple[str, ...]]
    labels: Sequence[Any] | None
    rows: Sequence[int]
    continuations: Sequence[str] | None = None
    unread: Mapping[int, str] = field(default_factory=dict)
    images: Sequence[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def text_faults(table: Table, columns: Mapping[str, str]) -> dict[int, Fault]:
    """By place, why the texts of a row cannot be used.

    Args:
        table: The rows.
        columns: By setting, the column that it names.

    Raises:
        DataError: A column is missing.
    """
    faults: dict[int, Fault] = {}
    unsure: Counter[str] = Counter()
    for setting, name in columns.items():
        for place, cell in enumerate(table.column(name, setting)):
            why = _text_fault(cell)
            if why is not None:
                faults.setdefault(place, Fault(why, setting))
            elif cell in MAYBE_GAPS:
                unsure[str(cell)] += 1
    for word, times in unsure.items():
        log.warning("%s has the text %r %d times; where it stands for a gap, leave it empty", table.source, word, times)
    return faults


def _text_fault(cell: object) -> str | None:
    if cell is None:
        return "empty text"
    other = kind(cell)
    if other is not None:
        return f"{other} where a text belongs"
    return None if whole_text(str(cell)) else "half a character (a lone surrogate)"


def read_texts(table: Table, columns: Mapping[str, str]) -> Sequence[tuple[str, ...]]:
    """The texts of each row, which `text_faults` has seen.

    Args:
        table: The rows.
        columns: By setting, the column that it names.
    """
    cells = [table.column(name, setting) for setting, name in columns.items()]
    return Column(Zipped(cells), lambda row: tuple(map(str, row)))


def shuffled(data: TextData, seed: int) -> TextData:
    """The same rows in a seeded random order, each with its row in the source."""
    return take(data, np.random.default_rng(seed).permutation(len(data)))


def take(data: TextData, places: Places) -> TextData:
    """Some of the rows, in the order of `places`, each with its row in the source; `info` stays that of all."""
    return replace(
        data,
        texts=pick(data.texts, places),
        labels=None if data.labels is None else pick(data.labels, places),
        rows=pick(data.rows, places),
        continuations=None if data.continuations is None else pick(data.continuations, places),
        images=None if data.images is None else pick(data.images, places),
    )


def kept(data: TextData) -> TextData:
    """The same with what is made of its source as it is looked at written down: texts, and what follows them."""
    if data.continuations is None:
        return replace(data, texts=kept_texts(data.texts))
    follow = kept_texts((one,) for one in data.continuations)
    return replace(
        data, texts=kept_texts(data.texts), continuations=pick(Column(follow, itemgetter(0)), range(len(data)))
    )
