"""Metrics against their formulas."""

import numpy as np
import pytest

from wheretune.errors import DataError
from wheretune.metrics.base import evaluate


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_two_classes_by_hand():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    chosen = np.array([1, 1, 0, 1, 0, 0, 0, 0])  # tp 2, fn 1, fp 1, tn 4
    found = by_name(evaluate(np.eye(2)[chosen], truth.astype(float), "classification"))
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"].value == 6 / 8 and found["accuracy"].n == 8
    assert found["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro-f1"].value == pytest.approx((2 / 3 + 0.8) / 2)
    assert found["matthews"].value == pytest.approx((2 * 4 - 1) / np.sqrt(3 * 3 * 5 * 5))


def test_three_classes_have_no_binary_f1():
    found = by_name(evaluate(np.eye(3)[[0, 1, 2, 2]], np.array([0.0, 1, 2, 1]), "classification"))
    assert "f1" not in found and found["accuracy"].value == 0.75


def test_regression_by_hand():
    predicted, truth = np.array([1.0, 2, 4, 3]), np.array([1.0, 2, 3, 5])
    found = by_name(evaluate(predicted[:, None], truth, "regression"))
    assert found["pearson"].value == pytest.approx(np.corrcoef(predicted, truth)[0, 1])
    assert found["spearman"].value == pytest.approx(0.8)
    assert found["mse"].value == pytest.approx(1.25) and not found["mse"].higher_is_better


@pytest.mark.parametrize(("predicted", "truth"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 1.0]), ([1.0], [2.0])])
def test_a_correlation_that_is_not_defined_is_an_error_not_a_number(predicted, truth):
    with pytest.raises(DataError, match="not defined"):
        evaluate(np.array(predicted)[:, None], np.array(truth), "regression")
