"""Metrics of classes. Accuracy, F1 and Matthews are those of GLUE, which the papers report, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from wheretune.metrics.base import Predictions


@dataclass(frozen=True)
class Accuracy:
    """The share of the rows whose class is right."""

    name: ClassVar[str] = "accuracy"
    reads: ClassVar[str] = "classes"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, " row"]) -> float | None:
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(truth, predictions.kinds[self.reads]))


@dataclass(frozen=True)
class MacroF1:
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn); 0 for a class that is never right."""

    name: ClassVar[str] = "macro-f1"
    reads: ClassVar[str] = "classes"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, " row"]) -> float | None:
        from sklearn.metrics import f1_score

        return float(f1_score(truth, predictions.kinds[self.reads], average="macro", zero_division=0))


@dataclass(frozen=True)
class F1:
    """F1 of the second of two classes, which GLUE counts as the positive one; not defined for more classes."""

    name: ClassVar[str] = "f1"
    reads: ClassVar[str] = "classes"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, " row"]) -> float | None:
        from sklearn.metrics import f1_score

        if len(predictions.names) != 2:
            return None
        return float(f1_score(truth, predictions.kinds[self.reads], zero_division=0))


@dataclass(frozen=True)
class Matthews:
    """Matthews correlation between the classes that are predicted and those that are true; 0 where one is constant."""

    name: ClassVar[str] = "matthews"
    reads: ClassVar[str] = "classes"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, " row"]) -> float | None:
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(truth, predictions.kinds[self.reads]))


@dataclass(frozen=True)
class LogLoss:
    """The mean over rows of -log of the true class's probability: the loss that a classification learns by."""

    name: ClassVar[str] = "log-loss"
    reads: ClassVar[str] = "probabilities"
    higher_is_better: ClassVar[bool] = False

    def compute(self, predictions: Predictions, truth: Int[np.ndarray, " row"]) -> float | None:
        from sklearn.metrics import log_loss

        shares = predictions.kinds[self.reads]
        if truth.max(initial=0) >= shares.shape[1]:  # a class that the model cannot know
            return None
        return float(log_loss(truth, shares, labels=range(shares.shape[1])))
