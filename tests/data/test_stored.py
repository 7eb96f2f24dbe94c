"""Rows on disk are the rows that were written, and what is made of them is the same as of a list."""

import json

import numpy as np
import pytest

import wheretune as wt
from helpers.models import tiny_tokenizer
from helpers.texts import classes_of, sentences
from helpers.training import fresh
from wheretune.data.batches import length_batches, spread
from wheretune.data.files import read_file
from wheretune.data.stored import StoredRows, kept_rows
from wheretune.data.tokens import encode
from wheretune.errors import OutputError
from wheretune.judging import predict
from wheretune.records.runs import TrainSettings
from wheretune.training.loop import train

ROWS = [
    {
        "input_ids": [*range(1, 2 + place % 5)],
        "attention_mask": [1] * (1 + place % 5),
        "row": 3 * place,
        "labels": label,
    }
    for place, label in enumerate([0, 2, 1, 0, 1, 2, 2, 0])
]
LABELS = {
    "classes": lambda place: place % 3,
    "numbers": lambda place: place / 7,
    "several": lambda place: [0.0, 1.0, float(place % 2)],
    "a tuple": lambda place: (1, 0, place % 2),
    "tokens": lambda place: [-100] * (place % 3) + [2**17 + place],
}


def parts_of(rows, size=3):
    return (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.mark.parametrize("name", LABELS)
def test_what_is_read_is_what_was_written(name):
    rows = [row | {"labels": LABELS[name](place)} for place, row in enumerate(ROWS)]
    found = kept_rows(parts_of(rows), in_memory=4)
    assert isinstance(found, StoredRows) and len(found) == len(rows)
    assert list(found) == rows and found[-1] == rows[-1] and found[2:7:2] == rows[2:7:2]
    assert json.dumps(list(found)) == json.dumps(rows)  # a 1 is no 1.0
    assert [type(row["labels"]) for row in found] == [type(row["labels"]) for row in rows]
    with pytest.raises(IndexError):
        found[len(rows)]
    assert spread(found) == spread(rows) and length_batches(found, 3) == length_batches(rows, 3)


def test_few_rows_and_rows_with_more_than_numbers_stay_in_memory():
    assert kept_rows(parts_of(ROWS), in_memory=1000) == ROWS
    assert kept_rows(iter([])) == []
    for place in (0, 4, 7):  # the first part, one that follows, the last
        seeing = [dict(row) for row in ROWS]
        seeing[place]["images"] = ("a.png",)
        found = kept_rows(parts_of(seeing), in_memory=4)
        assert isinstance(found, list) and found == seeing
    mixed = [*ROWS, {**ROWS[0], "labels": 0.5}]
    assert kept_rows(parts_of(mixed), in_memory=4) == mixed


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = kept_rows(parts_of(ROWS), in_memory=4)
    assert list(found) == ROWS and not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="missing"):
        kept_rows(parts_of(ROWS), in_memory=4)


def test_texts_are_encoded_alike_in_parts(monkeypatch, caplog):
    tokenizer = tiny_tokenizer("bert")
    data = wt.from_texts(sentences(30), classes_of(30), max_length=9)
    whole = encode(data, tokenizer, 9)
    said = caplog.text
    caplog.clear()
    monkeypatch.setattr("wheretune.data.tokens.PART", 7)
    monkeypatch.setattr("wheretune.data.tokens.kept_rows", lambda parts, recipe: kept_rows(parts, in_memory=50))
    parts = encode(data, tokenizer, 9)
    assert isinstance(whole, list) and isinstance(parts, StoredRows)
    assert list(parts) == whole and caplog.text == said and "were probably cut" in said


def test_training_and_judging_are_those_of_a_list():
    settings = TrainSettings(epochs=2, batch_size=4, learning_rate=1e-3)
    outcomes = []
    for keep in (list, lambda rows: kept_rows(parts_of(rows), in_memory=4)):
        model, tuned, rows, collate = fresh()
        rows = keep(rows)
        train(model, rows, collate, settings, None, followers=tuned.followers)
        outcomes.append((isinstance(rows, list), predict(model, rows, collate, 4)))
    assert [one for one, _ in outcomes] == [True, False]
    assert np.array_equal(outcomes[0][1], outcomes[1][1])


def test_rows_share_the_names_of_their_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a name": 1}\n{"a name": 2}\n')
    one, other = (next(iter(row)) for row in read_file(str(path)))
    assert one is other
