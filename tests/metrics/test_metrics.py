"""Metrics against their formulas."""

import numpy as np
import pytest

from wheretune import catalog, from_texts
from wheretune.errors import ConfigError, DataError
from wheretune.judging import judged, measures
from wheretune.metrics.base import Measure, Predictions
from wheretune.tasks.base import task_of


def judge(logits, labels, names=()):
    """The metrics of `logits` against `labels`, by name, the main one first."""
    data = from_texts(["a text"] * len(labels), labels)
    return {metric.name: metric for metric in judged(np.asarray(logits, dtype=np.float32), data, names)[0]}


def test_two_classes_by_hand():
    truth = [1, 1, 1, 0, 0, 0, 0, 0]
    chosen = [1, 1, 0, 1, 0, 0, 0, 0]  # tp 2, fn 1, fp 1, tn 4
    found = judge(np.eye(2)[chosen], truth)
    assert list(found) == ["accuracy", "macro-f1", "f1", "matthews"]
    assert found["accuracy"].value == 6 / 8 and found["accuracy"].n == 8
    assert found["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro-f1"].value == pytest.approx((2 / 3 + 0.8) / 2)
    assert found["matthews"].value == pytest.approx((2 * 4 - 1) / np.sqrt(3 * 3 * 5 * 5))


def test_three_classes_have_no_binary_f1(caplog):
    logits, labels = np.eye(3)[[0, 1, 2, 2]], [0, 1, 2, 1]
    found = judge(logits, labels)
    assert "f1" not in found and found["accuracy"].value == 0.75 and not caplog.records
    assert "f1" not in judge(logits, labels, ["f1"])
    assert "f1 is left out: it is not defined for classification into 3 classes" in caplog.text


def test_regression_by_hand():
    predicted, truth = np.array([1.0, 2, 4, 3]), np.array([1.5, 2, 3, 5])
    found = judge(predicted[:, None], truth.tolist())
    assert list(found) == ["pearson", "spearman", "mse"]
    assert found["pearson"].value == pytest.approx(np.corrcoef(predicted, truth)[0, 1])
    assert found["spearman"].value == pytest.approx(0.8)
    assert found["mse"].value == pytest.approx(((predicted - truth) ** 2).mean())
    assert not found["mse"].higher_is_better and found["pearson"].higher_is_better


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(("predicted", "truth"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 1.0]), ([1.0], [2.0])])
def test_a_correlation_that_is_not_defined_is_an_error_not_a_number(name, predicted, truth):
    predictions = Predictions(predicted, {"values": np.array(predicted)})
    with pytest.raises(DataError, match="not defined"):
        catalog.find("metric", name)().compute(predictions, np.array(truth))


@pytest.mark.parametrize("name", catalog.names("metric"))
def test_every_metric_is_a_measure_of_its_name(name):
    made = catalog.find("metric", name)()
    assert isinstance(made, Measure) and made.name == name


def test_metrics_by_name():
    task = task_of(from_texts(["a", "b"], ["x", "y"]).info)
    assert [one.name for one in measures(task, ["matthews", "accuracy"])] == list(task.metrics)
    with pytest.raises(ConfigError, match="no metric 'acuracy'; did you mean accuracy"):
        measures(task, ["acuracy"])
    wanted = "the metric mse reads values, and classification predicts classes and probabilities"
    with pytest.raises(ConfigError, match=wanted) as refused:
        measures(task, ["mse"])
    assert refused.value.field == "metrics"
