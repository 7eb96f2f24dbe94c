"""Asks the data which task it makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from wheretune.errors import DataError
from wheretune.tasks.base import TextTask
from wheretune.tasks.classification import Classification
from wheretune.tasks.regression import Regression
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.tasks.base import Labelled, LabelUse


@final
@dataclass(frozen=True)
class Auto(TextTask):
    """A regression if every label is a number and some are not whole; otherwise a classification."""

    name: ClassVar[str] = "auto"

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.become(Classification).further(table, classes)

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return self.become(Unlabelled).labels(table, classes, use)
        if fractional(cells):
            return self.become(Regression).labels(table, classes, use)
        read = self.become(Classification).labels(table, classes, use)
        if len(read.classes) > max(50, len(cells) // 2):
            raise DataError(
                f"{table.source} has {len(read.classes)} different values of {self.label_name} in {len(cells)} rows",
                "name the column of the labels, or say which task it is: regression or classification",
                "label_column",
            )
        return read


def fractional(cells: Sequence[object]) -> bool:
    """Whether all cells are numbers and some of these are not whole."""
    try:
        numbers = [float(str(cell)) for cell in cells if not isinstance(cell, bool)]
    except ValueError:
        return False
    some = any(math.isfinite(number) and number != round(number) for number in numbers)
    return some and len(numbers) == len(cells)
