"""Any number of labels per text: what is read, lost, predicted and refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from helpers.often import often
from wheretune import DataSpec, Spec, load_data
from wheretune.errors import ConfigError, DataError
from wheretune.judging import judged
from wheretune.tasks.base import task_of
from wheretune.tasks.multi_label import MultiLabel, best_threshold

SETS = [["b", "a"], [], ["c"], ["a"]]
WANTED = ((1, 1, 0), (0, 0, 0), (0, 0, 1), (1, 0, 0))


def rows(labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "params"),
    [
        (SETS, {}),
        ([np.array(one, dtype=object) for one in SETS], {}),
        ([tuple(one) for one in SETS], {}),
        ([str(one) for one in SETS], {}),
        (["b, a", "", "c", "a"], {"label_separator": ","}),
        (["b|a", None, ["c"], "a||a"], {"label_separator": "|"}),
    ],
)
def test_every_way_of_writing_labels(labels, params):
    data = load_data(DataSpec("mine", Spec("multi-label", params)), rows=rows(labels))
    assert data.info.classes == ("a", "b", "c") and data.labels == WANTED
    assert task_of(data.info) == MultiLabel(**params)


def test_lists_are_recognised_and_said_and_numbers_are_sorted_as_numbers(caplog):
    data = load_data(rows([[10, 2], [2.0], []]))
    assert data.info.task.name == "multi-label" and data.info.classes == ("2", "10")
    assert data.labels == ((1, 1), (1, 0), (0, 0))
    assert "the labels of memory are lists, so each text has any of 2 labels (task multi-label)" in caplog.text


@pytest.mark.parametrize(
    ("labels", "params", "words", "field"),
    [
        ([["a"], []], {}, "'a' is the only label", "label_column"),
        ([["a", "b"], ["b", "a"]], {}, "all rows have the same labels", "label_column"),
        ([[], []], {}, "no row has a label", "label_column"),
        (["a", "b"], {}, "a string where a list of labels belongs", "label_separator"),
        ([["a"], "b", ["b"]], {}, "a string where a list of labels belongs in row 2", "bad_rows"),
        ([["a"], 3, ["b"]], {}, "a number where a list of labels belongs in row 2", "bad_rows"),
        ([["a"], {"b": 1}, ["b"]], {}, "an object where a list of labels belongs in row 2", "bad_rows"),
        ([["a"], None, ["b"]], {}, "no label in row 2", "bad_rows"),
        ([["a"], [None], ["b"]], {}, "a gap among the labels in row 2", "bad_rows"),
        ([["a"], [["b"]], ["b"]], {}, "a list among the labels in row 2", "bad_rows"),
        ([[1, 0, 0], [0, 1, 1]], {}, "multi-hot", "label_column"),
        (["[1 0 0]", "[0 1 1]"], {}, "multi-hot", "label_column"),
    ],
)
def test_what_is_refused(labels, params, words, field):
    with pytest.raises(DataError, match=words) as refused:
        load_data(DataSpec("mine", Spec("multi-label", params)), rows=rows(labels))
    assert refused.value.field == field


def test_vectors_of_labels_are_refused_by_auto_too_and_a_blank_separator_is():
    with pytest.raises(DataError, match="name no labels; write the names"):
        load_data(rows([[1, 0, 0], [0, 1, 1], [0, 0, 0]]))
    with pytest.raises(ConfigError, match="the label separator is blank"):
        MultiLabel(label_separator=" ")


def test_the_loss_is_that_of_transformers():
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 0, 1]] * 5)
    expected = torch.nn.BCEWithLogitsLoss()(logits, labels.float())  # as Transformers' classifiers have it
    torch.testing.assert_close(MultiLabel().loss(logits, labels), expected)


def test_what_is_predicted_and_how_good_it_is():
    data = load_data(rows(SETS))
    logits = np.array([[2, -1, -2], [-1, -1, 0.1], [-3, -3, 1], [0.5, -2, -1]], dtype=np.float32)
    found = task_of(data.info).predict(logits, data.info.classes)
    assert found.written == [("a",), ("c",), ("c",), ("a",)]
    assert found.rows()[0]["labels"] == ("a",) and list(found.rows()[0]["probabilities"]) == ["a", "b", "c"]
    assert found.rows()[0]["probabilities"]["a"] == pytest.approx(1 / (1 + np.exp(-2)))
    metrics, predicted = judged(logits, data, ["label-log-loss"])
    truth, sets = np.array(WANTED), (logits >= 0).astype(int)
    values = {one.name: one.value for one in metrics}
    assert values["f1-micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert values["f1-macro"] == pytest.approx(f1_score(truth, sets, average="macro", zero_division=0))
    assert values["subset-accuracy"] == 0.5 == np.mean([one.right for one in predicted])
    loss = torch.nn.BCEWithLogitsLoss()(torch.tensor(logits), torch.tensor(truth).float())
    assert values["label-log-loss"] == pytest.approx(float(loss), rel=1e-5)
    assert predicted[0].truth == ("a", "b") and predicted[1].truth == () and predicted[0].probability is None


def test_a_label_that_the_model_cannot_know_is_wrong():
    trained = load_data(rows(SETS)).info
    later = rows([["a"], ["d", "c"]])
    with pytest.raises(DataError, match="the label 'd', which the training data has not"):
        load_data(later, like=trained)
    data = load_data(later, like=trained, open_classes=True)
    assert data.info.classes == ("a", "b", "c", "d") and data.labels == ((1, 0, 0, 0), (0, 0, 1, 1))
    logits = np.array([[2, -1, -2], [-1, -1, 3]], dtype=np.float32)
    values = {one.name: one.value for one in judged(logits, data)[0]}
    assert values["f1-micro"] == pytest.approx(4 / 5) and values["f1-macro"] == 0.5 and values["subset-accuracy"] == 0.5


def slow(shares, truth):
    """The best F1 of any threshold, from the definition."""
    cuts = [0.0, *((a + b) / 2 for a in shares for b in shares), 0.5]
    return max(f1_score(truth, (shares >= cut).astype(int), zero_division=0) for cut in cuts)


@pytest.mark.parametrize("seed", often(range(30), range(6)))
def test_thresholds_are_the_best_there_are(seed):
    generator = np.random.default_rng(seed)
    shares, truth = generator.random(12).round(generator.integers(1, 4)), generator.integers(0, 2, 12)
    found = best_threshold(shares, truth)
    assert f1_score(truth, (shares >= found).astype(int), zero_division=0) == pytest.approx(slow(shares, truth))


def test_the_threshold_nearest_to_a_half_is_taken():
    assert best_threshold(np.array([0.9, 0.8, 0.2]), np.array([1, 1, 0])) == 0.5
    assert best_threshold(np.array([0.3, 0.2]), np.array([0, 0])) == 0.5
    assert best_threshold(np.array([0.2, 0.1, 0.05]), np.array([1, 0, 0])) == pytest.approx(0.15)


def test_thresholds_are_part_of_the_task():
    logits = np.log(np.array([[0.2, 0.9], [0.1, 0.6]]) / np.array([[0.8, 0.1], [0.9, 0.4]])).astype(np.float32)
    task = MultiLabel().calibrated(lambda: logits, [(1, 1), (0, 0)])
    assert task.thresholds == pytest.approx((0.15, 0.75))
    assert task.predict(logits, ("a", "b")).written == [("a", "b"), ()]


def test_a_column_called_labels_is_found(caplog):
    rows = [{"text": f"text {i}", "labels": ["a", "b"][: i % 3]} for i in range(12)]
    data = load_data(DataSpec("memory"), rows=rows)
    assert data.info.task.name == "multi-label" and data.info.classes == ("a", "b")
    assert "read from labels" in caplog.text
    named = load_data(DataSpec("memory"), rows=[{**row, "label": "x" if i % 2 else "y"} for i, row in enumerate(rows)])
    assert named.info.task.name == "classification"
