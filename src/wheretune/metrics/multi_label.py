"""Metrics of sets of labels, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

    from wheretune.metrics.base import Predictions


@dataclass(frozen=True)
class F1Micro:
    """F1 = 2 tp / (2 tp + fp + fn) over all labels of all rows together."""

    name: ClassVar[str] = "f1-micro"
    reads: ClassVar[str] = "label-sets"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, "row label"]) -> float | None:
        from sklearn.metrics import f1_score

        return float(f1_score(truth, _wide(predictions, truth), average="micro", zero_division=0))


@dataclass(frozen=True)
class F1Macro:
    """The mean over labels of F1; 0 for a label that is never right."""

    name: ClassVar[str] = "f1-macro"
    reads: ClassVar[str] = "label-sets"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, "row label"]) -> float | None:
        from sklearn.metrics import f1_score

        return float(f1_score(truth, _wide(predictions, truth), average="macro", zero_division=0))


@dataclass(frozen=True)
class SubsetAccuracy:
    """The share of the rows whose labels are all right."""

    name: ClassVar[str] = "subset-accuracy"
    reads: ClassVar[str] = "label-sets"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, "row label"]) -> float | None:
        return float((_wide(predictions, truth) == truth).all(1).mean())


@dataclass(frozen=True)
class LabelLogLoss:
    """The mean over rows and labels of the binary cross-entropy: the loss that a multi-label task learns by."""

    name: ClassVar[str] = "label-log-loss"
    reads: ClassVar[str] = "label-probabilities"
    higher_is_better: ClassVar[bool] = False

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, "row label"]) -> float | None:
        shares = predictions.kinds[self.reads]
        if truth.shape != shares.shape:  # labels that the model cannot know
            return None
        right = np.where(truth == 1, shares, 1 - shares)
        return float(-np.log(np.maximum(right, np.finfo(np.float64).eps)).mean())


def _wide(predictions: Predictions, truth: Int[np.ndarray, "row label"]) -> Int[np.ndarray, "row label"]:
    """The sets that are predicted, with no row in labels that the model cannot know."""
    sets = predictions.kinds["label-sets"]
    return np.pad(sets, ((0, 0), (0, truth.shape[1] - sets.shape[1])))
