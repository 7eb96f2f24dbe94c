"""One number per text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from wheretune.data.cells import Fault
from wheretune.errors import DataError
from wheretune.metrics.base import Predictions
from wheretune.tasks.base import Labelled, TextTask
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.data.reading import Table
    from wheretune.tasks.base import LabelUse


@final
@dataclass(frozen=True)
class Regression(TextTask):
    """One number per text (or pair of texts), by the mean squared error. A fresh head starts at the mean label."""

    name: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")
    predicts: ClassVar[tuple[str, ...]] = ("values",)
    problem_type: ClassVar[str | None] = "regression"

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return self.become(Unlabelled).labels(table, classes, use)
        numbers = tuple(number(cell) for cell in cells)
        if classes is None and min(numbers) == max(numbers):
            raise DataError(f"{table.source} has the same {self.label_name} in every row", "give data that varies")
        return Labelled(self, numbers)

    def unlike(self, cell: object, classes: tuple[str, ...] | None) -> Fault | None:
        return None if math.isfinite(number(cell)) else Fault(f"no number as {self.label_name}: {cell!r}", "task")

    def describe(self, classes: Sequence[str]) -> str:
        return "regression"

    def outputs(self, classes: Sequence[str]) -> int:
        return 1

    def start(self, labels: Sequence[Any]) -> float | None:
        return float(np.mean(labels))

    def loss(self, logits: Float[Tensor, "batch 1"], labels: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """(z - y)^2, over the batch."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits.squeeze(-1), labels.to(logits.dtype))

    def predict(self, logits: Float[np.ndarray, "row 1"], classes: tuple[str, ...]) -> Predictions:
        values = logits[:, 0]
        return Predictions(written=[float(value) for value in values], kinds={"values": values})

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> list[float]:
        return [float(label) for label in labels]

    def read_back(self, written: float, classes: Sequence[str]) -> float:
        return written


def number(cell: object) -> float:
    """A label as a number; not a number where it is none."""
    try:
        return float(str(cell))
    except ValueError:
        return math.nan
