"""Task metrics, each with its n and its direction. The first of a task is the one that is compared.

Accuracy, F1, Matthews and Pearson are those of GLUE, which the papers report; computed by scikit-learn and SciPy.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from wheretune.errors import DataError
from wheretune.records.runs import Metric

if TYPE_CHECKING:
    from wheretune.records.data import Task


def evaluate(
    logits: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"], task: Task
) -> tuple[Metric, ...]:
    """The metrics of a task, the main one first.

    Classification: accuracy, macro F1, for two classes the F1 of the second (the positive one, as GLUE
    counts it), Matthews correlation. Regression: Pearson, Spearman, mean squared error.

    Raises:
        DataError: A correlation is not defined, since the labels or the predictions do not vary.
    """
    n = len(labels)
    if task == "regression":
        predicted = logits[:, 0]
        if n < 2 or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
            raise DataError(
                "the correlation is not defined: all labels or all predictions are the same",
                "evaluate on two or more rows that vary, or train longer",
            )
        from scipy.stats import pearsonr, spearmanr

        return (
            Metric("pearson", float(pearsonr(predicted, labels).statistic), n),
            Metric("spearman", float(spearmanr(predicted, labels).statistic), n),
            Metric("mse", float(np.mean((predicted - labels) ** 2)), n, higher_is_better=False),
        )
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    chosen, truth = logits.argmax(1), labels.astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is never predicted has F1 0 by definition
        metrics = [
            Metric("accuracy", float(accuracy_score(truth, chosen)), n),
            Metric("macro-f1", float(f1_score(truth, chosen, average="macro", zero_division=0)), n),
        ]
        if logits.shape[1] == 2:
            metrics.append(Metric("f1", float(f1_score(truth, chosen, zero_division=0)), n))
        metrics.append(Metric("matthews", float(matthews_corrcoef(truth, chosen)), n))
    return tuple(metrics)
