"""Rows that cannot be used: what is a gap, what is no text and no class, and what becomes of such rows."""

from collections import Counter

import numpy as np
import pandas
import pytest
import torch

from helpers.models import tiny_model
from helpers.texts import rows_of
from wheretune import DataSpec, Spec, from_texts, load_data, score
from wheretune.errors import ConfigError, DataError

GOOD = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
GAPS = [None, "", " \t", "\u200b", "nan", "NaN", "<NA>", "NaT", float("nan"), np.float32("nan"), pandas.NA, pandas.NaT]


@pytest.mark.parametrize("gap", GAPS, ids=repr)
def test_every_way_of_writing_a_gap(gap):
    for column, why in (("text", "empty text"), ("label", "no label")):
        with pytest.raises(DataError, match=f"1 of 3 rows of memory cannot be used: {why} in row 3"):
            load_data([*GOOD, {"text": "a", "label": 1} | {column: gap}])


def test_words_for_a_gap_are_gaps_among_numbers_and_classes_among_words():
    with pytest.raises(DataError, match="no label in rows 3, 4"):
        load_data([*GOOD, {"text": "a", "label": "None"}, {"text": "a", "label": "NA"}])
    assert load_data([{"text": "a", "label": x} for x in ("None", "favor")]).info.classes == ("None", "favor")


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (["x", "y"], "a list"), ([1, 0], "a list"), (np.array([1, 0]), "a list"), (torch.tensor([1, 0]), "a list"),
        ({"en": "a"}, "an object"), (b"a", "bytes"), (object(), "a object"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)  # fmt: skip
def test_what_is_neither_text_nor_class(cell, what):
    with pytest.raises(DataError, match=f"{what} where one label belongs in row 3"):
        load_data([*GOOD, {"text": "a", "label": cell}])
    with pytest.raises(DataError, match=f"{what} where a text belongs in row 3"):
        load_data([*GOOD, {"text": cell, "label": 1}])


@pytest.mark.parametrize("written", ["['x', 'y']", "[1, 0]", "[1 0]", "[1. 0.]", "{'a': 1}"])
def test_lists_that_a_frame_has_written_out_are_no_classes(written):
    with pytest.raises(DataError, match="where one label belongs in rows 1, 2"):
        load_data([{"text": "a", "label": written}] * 2)
    assert load_data([{"text": written, "label": label} for label in ("[NEG]", "{x")]).info.classes == ("[NEG]", "{x")


def test_bad_rows_are_counted_and_the_first_five_are_named():
    rows = [*GOOD, *({"text": "", "label": 1} for _ in range(3)), *({"text": "a"} for _ in range(4))]
    with pytest.raises(DataError) as refused:
        load_data(rows)
    said = "7 of 9 rows of memory cannot be used: empty text in rows 3, 4, 5, no label in rows 6, 7 and 2 more"
    assert said in str(refused.value) and refused.value.field == "bad_rows"


def test_skipped_rows_are_left_out_and_said(caplog):
    rows = [{"text": "", "label": 1}, *GOOD, {"text": "a", "label": None}]
    data = load_data(DataSpec("mine", bad_rows="skip"), rows=rows)
    assert data.texts == (("good",), ("bad",)) and data.rows == (1, 2) and data.info.left_out == 2
    assert data.unread == {0: "empty text", 3: "no label"} and "2 of 4 rows of mine cannot be used" in caplog.text
    with pytest.raises(DataError, match=r"2 of 2 rows .* or name another label column") as refused:
        load_data(DataSpec("mine", bad_rows="skip"), rows=[{"text": "a", "label": []}] * 2)
    assert refused.value.field == "label_column"


def test_texts_that_are_words_for_a_gap_are_said(caplog):
    load_data([*GOOD, {"text": "None", "label": 1}])
    assert "the text 'None' 1 times" in caplog.text


def test_a_draw_of_rows_loses_no_class(caplog):
    rows = [{"text": "a", "label": "rare" if i == 7 else "np"[i % 2]} for i in range(100)]
    data = load_data(DataSpec("mine", max_samples=10, seed=1), rows=rows)
    assert data.info.classes == ("n", "p", "rare") and len(data) == data.info.rows == 10
    assert "none of the 10 rows drawn from mine is of 'rare'" in caplog.text


def test_uneven_classes_are_said(caplog):
    load_data([{"text": "a", "label": int(i % 4 == 0)} for i in range(8)])
    assert "uneven" not in caplog.text
    load_data([{"text": "a", "label": int(i == 0)} for i in range(8)])
    assert "the classes of memory are uneven: of 8 rows 7 are '0' and 1 '1'" in caplog.text


@pytest.mark.parametrize("draw", [None, 100])
def test_parts_of_the_rows_are_disjoint_and_have_all_classes_alike(draw):
    rows = [{"text": str(i), "label": "abbbbbbbbb"[i % 10]} for i in range(300)]

    def part(low, high, seed=0):
        return load_data(DataSpec("mine", max_samples=draw, seed=seed, part=(low, high)), rows=rows)

    held, kept = part(0.0, 0.1), part(0.1, 1.0)
    everything = load_data(DataSpec("mine", max_samples=draw), rows=rows)
    assert sorted(held.rows + kept.rows) == list(everything.rows) and len(held) == len(everything) // 10
    share = Counter(everything.labels)[0] / len(everything)
    assert abs(Counter(held.labels)[0] - share * len(held)) <= 1
    assert part(0.0, 0.1).rows == held.rows and part(0.0, 0.1, seed=1).rows != held.rows
    assert part(0.0, 0.1).info.hash == held.info.hash != kept.info.hash


def test_parts_that_are_refused():
    with pytest.raises(DataError, match="10% of the 2 rows of mine is no row"):
        load_data(DataSpec("mine", part=(0, 0.1)), rows=GOOD)
    with pytest.raises(ConfigError, match="part is") as refused:
        DataSpec("mine", part=(0.5, 0.5))
    assert refused.value.field == "part"


def test_later_labels_that_do_not_vary():
    like = load_data([{"text": "a", "label": label} for label in (1.5, 2)]).info
    assert load_data([{"text": "a", "label": 3}] * 2, like=like).labels == (3.0, 3.0)
    with pytest.raises(DataError, match="the same label in every row"):
        load_data(DataSpec("mine", Spec("regression")), rows=[{"text": "a", "label": 3}] * 2)


@pytest.mark.parametrize("texts", [["a", None], [{"en": "a"}, "b"], [["a", "b", "c"], "b"], [(), "b"], [b"a", "b"]])
def test_texts_that_are_none(texts):
    with pytest.raises(DataError):
        from_texts(texts, [0, 1])


def test_a_model_is_scored_on_a_frame_also_where_its_labels_do_not_vary(caplog):
    model, tokenizer = tiny_model("bert")
    rows = rows_of(12)
    frame = score(model, tokenizer, pandas.DataFrame(rows))
    assert frame.layers == score(model, tokenizer, rows).layers and frame.scorer.name == "cosine-centrality"
    assert score(model, tokenizer, [row | {"label": 1} for row in rows]).layers == frame.layers
    assert "the labels are left aside" in caplog.text
