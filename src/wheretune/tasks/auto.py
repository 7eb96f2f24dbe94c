"""Asks the data which task it makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from wheretune.data.cells import kind
from wheretune.errors import DataError
from wheretune.support.log import log
from wheretune.tasks.base import TextTask
from wheretune.tasks.classification import Classification
from wheretune.tasks.multi_label import MultiLabel
from wheretune.tasks.regression import Regression
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from wheretune.data.reading import Fault, Table
    from wheretune.tasks.base import Labelled, LabelUse


@final
@dataclass(frozen=True)
class Auto(TextTask):
    """A regression if every label is a number and some are not whole; multi-label if most are lists of labels.

    All else is a classification.
    """

    name: ClassVar[str] = "auto"

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        if self._lists(table, use):
            return self.become(MultiLabel).faults(table, classes, use)
        return self.become(Classification).faults(table, classes, use)

    def _lists(self, table: Table, use: LabelUse) -> bool:
        """Whether more than half of the rows have a list of labels, and some of these are not empty.

        A list that a data frame has written out is not enough: that may be an accident.
        """
        lists: list[Any] = [cell for cell in self.label_cells(table, use) or () if kind(cell) == "a list"]
        return 2 * len(lists) > len(table) and any(len(one) > 0 for one in lists)

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.become(Classification).further(table, classes)

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return self.become(Unlabelled).labels(table, classes, use)
        if self._lists(table, use):
            read = self.become(MultiLabel).labels(table, classes, use)
            log.warning(
                "the labels of %s are lists, so each text has any of %d labels (task multi-label)",
                table.source, len(read.classes),
            )  # fmt: skip
            return read
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
