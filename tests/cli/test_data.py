"""Data as people have it, through the command line: several files, shares for validation, bad rows, other encodings."""

import io
import json
import sys
from pathlib import Path

import pytest

from helpers.commands import FAST, one_line
from helpers.texts import jsonl, rows_of
from wheretune.cli import printing
from wheretune.cli.app import joined
from wheretune.judging import read_predictions


def test_files_that_a_shell_found_are_one_value(tmp_path):
    first, second, other = (str(tmp_path / name) for name in ("a.csv", "b.csv", "plan.json"))
    for name in (first, second, other):
        Path(name).touch()
    given = ["tune", "--train", first, second, "--data", first, other, str(tmp_path), "--test", second]
    wanted = ["tune", "--train", f"{first},{second}", "--data", first, other, str(tmp_path), "--test", second]
    assert joined(given) == wanted


def test_bad_rows_name_the_option_that_skips_them(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", [*rows_of(20), {"text": " ", "label": "good"}])
    common = ("score", "--model", tiny_folder("bert"), "--train", train, "--output", tmp_path / "s.json")
    one_line(*run(*common)[::2], "1 of 21 rows", "empty text in row 21", "--bad-rows skip")
    code, _, err = run(*common, "--bad-rows", "skip")
    assert code == 0 and json.loads((tmp_path / "s.json").read_text())["data"]["left_out"] == 1, err


@pytest.mark.parametrize("share", ["0%", "100%", "120 %"])
def test_a_share_that_leaves_nothing(run, files, tiny_folder, tmp_path, share):
    common = ("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run")
    one_line(*run(*common, "--validation", share)[::2], f"--validation is {share}")


def test_a_folder_of_splits_and_an_answer_for_every_row(run, tiny_folder, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(
        folder / "train.jsonl",
        [row | {"label": "\N{GRINNING FACE}" if i % 2 else "no"} for i, row in enumerate(rows_of(40))],
    )
    rows = [
        {"sentence": "a good film", "label": "no"},
        {"sentence": "", "label": "no"},
        {"sentence": "a bad film", "label": "other"},
        {"sentence": ["a", "b"], "label": "no"},
        {"sentence": "bad", "label": "\N{GRINNING FACE}"},
    ]
    test = jsonl(folder / "test.jsonl", rows)
    code, _, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", folder, "--validation", "10%", "--layers", 1,
        "--output", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [result["data"][split]["rows"] for split in ("train", "validation")] == [36, 4]
    assert result["spec"]["train"]["source"] == f"{folder}::train" and result["spec"]["validation"]["part"] == [
        0.0,
        0.1,
    ]

    common = ("--data", folder, "--text-column", "sentence")
    code, out, err = run("evaluate", tmp_path / "run", *common, "--output", tmp_path / "t.json", "--json")
    assert code == 0 and json.loads(out)["rows"] == 5 and json.loads(out)["not_counted"] == 2, err
    assert {metric["n"] for metric in json.loads(out)["metrics"]} == {3}
    found = read_predictions(tmp_path / "predictions-t.jsonl")
    assert [one.predicted is None for one in found] == [False, True, False, True, False]
    assert [one.reason is None for one in found] == [True, False, True, False, True]
    code, out, err = run("predict", tmp_path / "run", "--data", test, "--text-column", "sentence")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["label"] is None for row in answers] == [False, True, False, True, False], err
    assert answers[1] == {"label": None, "probabilities": None, "reason": "empty text"}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_that_is_not_utf8(monkeypatch, encoding):
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    printing.console.cache_clear()
    printing.readable_anywhere()
    printing.show("layer 3 – █▌ \N{GRINNING FACE} \udc80")
    printing.show(None, True, {"label": "\N{GRINNING FACE}"})
    out.flush()
    printing.console.cache_clear()
    text, as_json = written.getvalue().decode(encoding).splitlines()
    assert text == ("layer 3 - ## ? ?" if encoding == "ascii" else "layer 3 – ## ? ?")
    assert json.loads(as_json) == {"label": "\N{GRINNING FACE}"}
