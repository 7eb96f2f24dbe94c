"""Tasks: what each reads, loses and predicts; all that the stages ask of one is asked of every row of the catalog."""

import hashlib
import json

import numpy as np
import pytest
import torch

from wheretune import DataSpec, catalog, from_texts, load_data
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec, from_json, to_json
from wheretune.records.data import DataInfo
from wheretune.tasks.base import Task, TaskReader, task_of
from wheretune.tasks.classification import Classification
from wheretune.tasks.multi_label import MultiLabel
from wheretune.tasks.regression import Regression
from wheretune.tasks.unlabelled import Unlabelled

ROWS = [
    {"text": "good", "other": "bad", "label": "yes", "next": "on"},
    {"text": "a", "other": "b", "label": "no", "next": "by"},
]


@pytest.mark.parametrize("name", catalog.names("task"))
def test_every_task_is_made_again_from_its_spec(name):
    settings = {"pair_column": "other", "verbalizer": {"yes": "good", "no": "bad"}, "cut": "start", "turns": "last"}
    made = catalog.build("task", catalog.filled("task", Spec(name), **settings))
    assert isinstance(made, TaskReader) and made.name == name
    assert catalog.build("task", Spec.of(made)) == made and hash(made) is not None
    assert catalog.build("task", from_json(Spec, to_json(Spec.of(made)), "here")) == made


@pytest.mark.parametrize("task", [Classification(), Regression(), MultiLabel(), Unlabelled()])
def test_what_every_task_but_auto_says(task):
    assert isinstance(task, Task) and task.describe(("no", "yes")) and task.outputs(("no", "yes")) >= 1
    catalog.find("head", task.head)
    assert all(catalog.find("metric", name).reads in task.predicts for name in task.metrics)


def test_what_was_read_makes_the_task_again():
    spec = DataSpec("here", Spec("auto", {"pair_column": "other", "target_column": "next"}))
    data = load_data(spec, rows=ROWS)
    assert data.texts == (("good", "bad"), ("a", "b")) and data.continuations == ("on", "by")
    assert data.info.task == Spec("classification", {"pair_column": "other", "target_column": "next"})
    assert task_of(data.info) == Classification(pair_column="other", target_column="next")
    assert from_json(DataInfo, json.loads(json.dumps(to_json(data.info))), "here") == data.info


def test_a_verbalizer_is_read_from_text_and_goes_with_no_target_column():
    made = catalog.read("task", "classification", ["verbalizer=yes=good, no=bad", "label_column=kind"])
    assert made == Classification(verbalizer={"yes": "good", "no": "bad"}, label_column="kind")
    for text in ("yes", "yes=", "yes=a,yes=b"):
        with pytest.raises(ConfigError, match="verbalizer"):
            catalog.read("task", "auto", [f"verbalizer={text}"])
    with pytest.raises(ConfigError, match="both say what follows") as refused:
        Classification(verbalizer={"a": "b"}, target_column="next")
    assert refused.value.field == "verbalizer"


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (Spec("auto", {"text_column": "x"}), "text_column"),
        (Spec("auto", {"pair_column": "x"}), "pair_column"),
        (Spec("auto", {"target_column": "x"}), "target_column"),
        (Spec("auto", {"label_column": "x"}), "label_column"),
        (Spec("regression"), "task"),
        (Spec("unlabelled"), "task"),
    ],
)
def test_a_refusal_names_the_setting_that_it_is_about(task, field):
    with pytest.raises(DataError) as refused:
        load_data(DataSpec("here", task), rows=ROWS)
    assert refused.value.field == field and "--" not in str(refused.value)


def test_later_data_has_the_columns_of_the_training_data_where_it_names_none():
    train = load_data(DataSpec("train", Spec("auto", {"text_column": "other"})), rows=ROWS).info
    assert load_data(DataSpec("later"), like=train, rows=ROWS).texts == (("bad",), ("b",))
    named = DataSpec("later", Spec("auto", {"text_column": "text"}))
    assert load_data(named, like=train, rows=ROWS[:1]).texts == (("good",),)
    with pytest.raises(ConfigError, match="later is to be read for regression, and the training data makes classif"):
        load_data(DataSpec("later", Spec("regression")), like=train, rows=ROWS)


def test_labels_that_are_not_looked_at():
    data = load_data(DataSpec("here", Spec("regression")), labels="ignored", rows=ROWS)
    assert data.labels is None and data.info.task == Spec("unlabelled") and data.info.classes == ()
    with pytest.raises(DataError, match="teach nothing"):
        Unlabelled().loss(torch.zeros(1, 1), torch.zeros(1))


def test_losses_by_hand():
    logits, labels = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.1, 0.2]]), torch.tensor([2, 0])
    expected = -torch.log_softmax(logits, 1)[[0, 1], labels].mean()
    torch.testing.assert_close(Classification().loss(logits, labels), expected)
    values, truth = torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])
    torch.testing.assert_close(Regression().loss(values, truth), torch.tensor(2.5))


def test_what_is_predicted_from_logits():
    found = Classification().predict(np.array([[0.0, np.log(3.0)], [1.0, 1.0]], dtype=np.float32), ("no", "yes"))
    assert found.written == ["yes", "no"] and found.kinds["classes"].tolist() == [1, 0]
    np.testing.assert_allclose(found.confidence, [0.75, 0.5], rtol=1e-7)
    assert list(found.rows()[0]["probabilities"]) == ["no", "yes"] and found.rows()[0]["label"] == "yes"
    numbers = Regression().predict(np.array([[1.5], [2.0]], dtype=np.float32), ())
    assert numbers.written == [1.5, 2.0] and numbers.confidence is None
    assert numbers.rows() == [{"value": 1.5}, {"value": 2.0}]


def test_a_class_is_hashed_as_the_number_that_it_was():
    data = from_texts(["a", "b"], ["x", "y"])
    assert data.labels == (0, 1)
    lines = '[["a"], 0.0]\n[["b"], 1.0]\n'  # as 0.1.0 hashed them
    assert data.info.hash == hashlib.sha256(lines.encode()).hexdigest()


def test_the_usual_columns_of_texts_are_read_where_none_is_named():
    pairs = [{"premise": "a", "hypothesis": "b", "label": "yes"}, {"premise": "c", "hypothesis": "d", "label": "no"}]
    assert load_data(pairs).texts == (("a", "b"), ("c", "d"))
    read = load_data([{"sentence": "a", "label": "yes"}, {"sentence": "b", "label": "no"}])
    assert read.texts == (("a",), ("b",)) and read.info.task.params == {"text_column": "sentence"}
    assert load_data([{"sentence": "c", "label": "no"}], like=read.info).texts == (("c",),)
    named = Spec("auto", {"text_column": "premise"})
    assert load_data(DataSpec("here", named), rows=pairs).texts == (("a",), ("c",))
    with pytest.raises(DataError, match="no column 'text'"):
        load_data([{"words": "a", "label": "yes"}])
