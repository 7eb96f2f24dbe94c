"""From a model to predictions that are kept row by row."""

import json

import numpy as np
import pytest
import torch

from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune import LastToken, from_texts
from wheretune.data.texts import take
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, TrainingError
from wheretune.heads.headed import headed
from wheretune.judging import Prediction, judge, judged, predict, read_predictions, save_predictions
from wheretune.model.finding import find_layers
from wheretune.tasks.base import task_of

LABELS = {"classes": [("no", "yes", "perhaps")[i % 3] for i in range(11)], "numbers": [i / 4 for i in range(11)]}


def made(labels):
    base, tokenizer = tiny_model("bert")
    data = from_texts(sentences(11), LABELS[labels])
    return headed(find_layers(base), LastToken(), data, seed=0), data, tokenizer


@pytest.mark.parametrize("labels", LABELS)
def test_predictions_are_kept_row_by_row_and_read_back(labels, tmp_path):
    model, data, tokenizer = made(labels)
    metrics, predicted = judge(model, data, tokenizer, 64)
    assert save_predictions(predicted, tmp_path, "test") == "predictions-test.jsonl"
    path = tmp_path / "predictions-test.jsonl"
    assert read_predictions(path) == predicted
    assert [one.truth for one in predicted] == LABELS[labels] and [one.row for one in predicted] == list(range(11))
    if labels == "classes":
        assert metrics[0].value == np.mean([one.right for one in predicted])
        assert all(one.probability >= 1 / 3 for one in predicted)
    else:
        assert metrics[2].value == pytest.approx(np.mean([(one.predicted - one.truth) ** 2 for one in predicted]))
        assert all(one.right is None and one.probability is None for one in predicted)
    first = path.read_bytes()
    save_predictions(judge(model, data, tokenizer, 64)[1], tmp_path, "test")
    assert path.read_bytes() == first


def test_the_rows_of_a_draw_keep_their_numbers():
    _, data, _ = made("classes")
    part = take(data, [7, 2])
    _, predicted = judged(np.eye(3, dtype=np.float32)[[0, 1]], part)
    assert [one.row for one in predicted] == [7, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "line 1 is not JSON"),
        ('{"row": 0, "truth": "a"}', "lines.0.predicted"),
        ('{"row": 0, "truth": "a", "predicted": "b", "probability": NaN}', "probability"),
        ('{"row": 0, "truth": "a", "predicted": "b", "probability": 2}', "its probability is 2"),
        ('{"row": 0, "truth": 1, "predicted": 2}\n' * 2, "a row stands twice"),
    ],
)
def test_a_file_that_holds_no_predictions(content, message, tmp_path):
    path = tmp_path / "predictions-test.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_predictions(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_predictions(tmp_path / "nothing.jsonl")


def test_a_line_says_what_it_is(tmp_path):
    save_predictions([Prediction(3, "no", "yes", 0.1 + 0.2)], tmp_path, "dev")
    line = json.loads((tmp_path / "predictions-dev.jsonl").read_text())
    assert line == {"row": 3, "truth": "no", "predicted": "yes", "probability": 0.1 + 0.2}


def test_what_cannot_be_predicted():
    model, data, tokenizer = made("classes")
    with pytest.raises(ConfigError, match="batch size is 0") as refused:
        judge(model, data, tokenizer, 64, batch_size=0)
    assert refused.value.field == "batch_size"
    with pytest.raises(ConfigError, match="the metric mse reads values"):
        judge(model, data, tokenizer, 64, names=["mse"])
    with torch.no_grad():
        model.head[1].weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        judge(model, data, tokenizer, 64)


def test_predict_leaves_the_model_in_its_mode_and_the_rows_in_their_order():
    model, data, tokenizer = made("classes")
    model.train()
    rows, collate = encode(data, tokenizer, 64), task_of(data.info).collator(tokenizer)
    found = predict(model, rows, collate, batch_size=4)
    assert model.training and model.head.training
    alone = np.concatenate([predict(model, [row], collate) for row in rows])
    np.testing.assert_allclose(found, alone, atol=1e-5)
