"""Metrics of numbers. Pearson is that of GLUE, which the papers report, by SciPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float

    from wheretune.metrics.base import Predictions


@dataclass(frozen=True)
class Pearson:
    """Pearson's correlation between the numbers that are predicted and those that are true."""

    name: ClassVar[str] = "pearson"
    reads: ClassVar[str] = "values"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Float[np.ndarray, " row"]) -> float | None:
        from scipy.stats import pearsonr

        return float(pearsonr(_varying(predictions, truth), truth).statistic)


@dataclass(frozen=True)
class Spearman:
    """Pearson's correlation between the ranks of the two."""

    name: ClassVar[str] = "spearman"
    reads: ClassVar[str] = "values"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Float[np.ndarray, " row"]) -> float | None:
        from scipy.stats import spearmanr

        return float(spearmanr(_varying(predictions, truth), truth).statistic)


@dataclass(frozen=True)
class MSE:
    """The mean over rows of (predicted - true)^2."""

    name: ClassVar[str] = "mse"
    reads: ClassVar[str] = "values"
    higher_is_better: ClassVar[bool] = False

    def compute(self, predictions: Predictions, truth: Float[np.ndarray, " row"]) -> float | None:
        return float(np.mean((predictions.kinds[self.reads] - truth) ** 2))


def _varying(predictions: Predictions, truth: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """The values that are predicted.

    Raises:
        DataError: They or the labels do not vary.
    """
    values: Float[np.ndarray, " row"] = predictions.kinds["values"]
    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(values) == 0:
        raise DataError(
            "the correlation is not defined: all labels or all predictions are the same",
            "evaluate on two or more rows that vary, or train longer",
        )
    return values
