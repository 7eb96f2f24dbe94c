"""Outputs joined to their data, and what is wrong with either."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import SOURCE
from helpers.e2e import GOLDEN, HYPOTHESES, REFERENCES, score
from helpers.texts import jsonl
from wheretune.errors import ConfigError, DataError, UnavailableError
from wheretune.text_judging import judge_texts, read_outputs

NAMES = ("bleu", "nist", "rouge-l", "cider")


def rows_of(outputs):
    return [{"row": row, "text": text} for row, text in outputs.items()]


def judged(rows, outputs, *names, **options):
    """The metrics by name."""
    return {one.name: one for one in judge_texts(rows_of(outputs), rows, names, **options)}


LISTS = [{"mr": f"m{i}", "references": list(one)} for i, one in enumerate(REFERENCES)]
FLAT = [{"mr": f"m{i}", "ref": text} for i, one in enumerate(REFERENCES) for text in one]
FLAT = sorted(FLAT, key=lambda row: (row["ref"], row["mr"]))  # equal sources need not stand together
OF_FLAT = {row: HYPOTHESES[int(one["mr"][1:])] for row, one in enumerate(FLAT)}


def test_a_list_in_a_row():
    found = judged(LISTS, dict(enumerate(HYPOTHESES)), *NAMES)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {name: GOLDEN["all"][name] for name in NAMES}, abs=1e-12
    )
    assert all(one.n == 5 and one.higher_is_better and one.reason is None for one in found.values())


def test_texts_by_their_source():
    groups = [[other["ref"] for other in FLAT if other["mr"] == one["mr"]] for one in FLAT]
    found = judged(FLAT, OF_FLAT, *NAMES)
    for name in NAMES:  # every row counts
        assert found[name].value == pytest.approx(score(name, list(OF_FLAT.values()), groups), abs=1e-12)
        assert found[name].n == len(FLAT) == 12


def test_each_source_once_is_the_challenge_s_count():
    firsts = {row: text for row, text in OF_FLAT.items() if FLAT[row]["mr"] not in {FLAT[i]["mr"] for i in range(row)}}
    for outputs in (OF_FLAT, firsts):  # the others need no output
        found = judged(FLAT, outputs, *NAMES, each_source_once=True)
        assert all(found[name].value == pytest.approx(GOLDEN["all"][name], abs=1e-12) for name in NAMES)
        assert found["bleu"].n == 5


def test_equal_references_stay_two():
    rows = [{"mr": "a", "ref": "x y"}, {"mr": "a", "ref": "x y"}, {"mr": "b", "ref": "z"}, {"mr": "a", "ref": "z"}]
    outputs = {0: "x y", 1: "x y", 2: "z", 3: "z"}
    expected = score("cider", ["x y", "x y", "z", "z"], [["x y", "x y", "z"]] * 2 + [["z"], ["x y", "x y", "z"]])
    assert judged(rows, outputs, "cider")["cider"].value == pytest.approx(expected)
    assert expected != score("cider", ["x y", "x y", "z", "z"], [["x y", "z"]] * 2 + [["z"], ["x y", "z"]])


def test_columns_by_name_and_without_a_source():
    rows = [{"a": "q", "b": "x", "answer": "no"}, {"a": "q", "b": "y", "answer": "no"}]
    outputs = {0: "y", 1: "x"}
    assert judged(rows, outputs, "exact-match", source_column="a", references_column="b")["exact-match"].value == 1
    assert judged(rows, outputs, "exact-match", references_column="b")["exact-match"].value == 0
    numbers = [{"question": "?", "answer": "#### 5", "number": 5}, {"question": "!", "answer": "#### 6", "number": 6}]
    for column in ("number", "answer", None):
        found = judged(numbers, {0: "it is 5", 1: "7"}, "exact-match", references_column=column)
        assert found["exact-match"].value == 0.5


@pytest.mark.parametrize(
    ("rows", "outputs", "words"),
    [
        (LISTS, {0: "a", 1: "b", 3: "c"}, "no output for row 2 and 1 more of memory"),
        (LISTS[:2], {0: "a"}, "no output for row 1 of memory; add it"),
        (LISTS[:2], {0: "a", 1: "b", 7: "c"}, "an output for row 7, and memory has 2 rows"),
        ([{"ref": "a"}, {"ref": None}], {0: "a", 1: "b"}, "row 1 has no reference in 'ref'"),
        ([{"ref": "a"}, {"ref": " "}], {0: "a", 1: "b"}, "row 1 has no reference in 'ref'"),
        ([{"ref": ["a"]}, {"ref": []}], {0: "a", 1: "b"}, "row 1 has an empty list in 'ref'"),
        ([{"ref": ["a"]}, {"ref": ["b", None]}], {0: "a", 1: "b"}, "row 1 has no reference in 'ref'"),
        ([{"ref": ["a"]}, {"ref": [["b"]]}], {0: "a", 1: "b"}, "row 1 has a list as a reference in 'ref'"),
        ([{"ref": {"a": 1}}], {0: "a"}, "row 0 has an object as a reference"),
        ([{"ref": "\ud800"}], {0: "a"}, "row 0 has half a character"),
        ([{"text": "a"}], {0: "a"}, "no column with references .its columns: text.; name it"),
    ],
)
def test_what_does_not_fit_is_named(rows, outputs, words):
    with pytest.raises(DataError, match=words):
        judged(rows, outputs, "bleu")


def test_what_a_metric_needs():
    with pytest.raises(ConfigError, match="the metric accuracy reads classes, and outputs are text") as refused:
        judged(LISTS, dict(enumerate(HYPOTHESES)), "bleu", "accuracy")
    assert refused.value.field == "metrics"
    with pytest.raises(DataError, match="memory has no column 'test'"):
        judged([{"prompt": "p"}], {0: "a"}, "pass-at-1")
    with pytest.raises(DataError, match="no column with the source of a row"):
        judged([{"ref": "p"}], {0: "a"}, "bleu", each_source_once=True)


def test_what_cannot_be_had_is_left_out_unless_it_is_all(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nowhere")
    outputs = dict(enumerate(HYPOTHESES))
    found = judged(LISTS, outputs, "meteor", "bleu")
    assert (
        found["meteor"].value is None and "needs Java" in found["meteor"].reason and "meteor is left out" in caplog.text
    )
    assert found["meteor"].content()["value"] is None and "reason" not in found["bleu"].content()
    assert found["bleu"].value == pytest.approx(GOLDEN["all"]["bleu"])
    with pytest.raises(UnavailableError, match="needs Java"):
        judged(LISTS, outputs, "meteor")


# --- from Python, as docs/judging.md shows it ----------------------------------------------------


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "outputs.jsonl", rows_of(OF_FLAT))
    jsonl(tmp_path / "e2e-test.jsonl", FLAT)
    page = (Path(__file__).parents[1] / "docs" / "judging.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    scope = {}
    exec(snippet, scope)
    assert {one.name: one.value for one in scope["found"]} == {
        name: pytest.approx(score(name, scope["texts"], scope["references"])) for name in ("bleu", "rouge-l")
    }
    assert scope["of_files"].value == pytest.approx(GOLDEN["all"]["cider"], abs=1e-12)


def test_it_opens_no_torch():
    code = "import sys, wheretune as wt; wt.judge_texts(['a'], ['a'], 'bleu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SOURCE)}).returncode == 0


def test_texts_and_references_as_they_are_at_hand():
    pandas = pytest.importorskip("pandas")
    names = ("rouge-l", "cider")
    expected = judged(LISTS, dict(enumerate(HYPOTHESES)), *names)
    for texts in (tuple(HYPOTHESES), pandas.DataFrame({"text": HYPOTHESES}), rows_of(dict(enumerate(HYPOTHESES)))):
        for references in (tuple(map(tuple, REFERENCES)), pandas.DataFrame(LISTS)):
            assert judge_texts(texts, references, names) == tuple(expected.values())
    assert judge_texts(iter(HYPOTHESES), REFERENCES, names) == tuple(expected.values())
    assert judge_texts(["a"], ["A "], "exact-match:of=text")[0].value == 0
    with pytest.raises(DataError, match="no output for row 1 of memory"):
        judge_texts(["a"], ["a", "b"], "bleu")
    with pytest.raises(DataError, match="memory has no row in output 2"):
        judge_texts([{"row": 0, "text": "a"}, {"text": "b"}], ["a", "b"], "bleu")
    with pytest.raises(DataError, match="row 1 has no reference"):
        judge_texts(["a", "b"], [["a"], None], "bleu")


# --- files of outputs ----------------------------------------------------------------------------


def test_outputs_in_any_order(tmp_path):
    rows = [{"row": 2, "text": "c"}, {"row": 0, "text": "a", "more": 1}, {"row": 1, "text": None}]
    assert read_outputs(str(jsonl(tmp_path / "o.jsonl", rows))) == {0: "a", 1: "", 2: "c"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"row": 0, "text": "a"}', '{"row": 0, "text": "b"}'], "has row 0 twice; give one output per row"),
        (['{"text": "a"}'], "has no row in output 1; write"),
        (['{"row": "0", "text": "a"}'], "has the row '0' in output 1"),
        (['{"row": -1, "text": "a"}'], "has the row -1 in output 1"),
        (['{"row": true, "text": "a"}'], "has the row True in output 1"),
        (['{"row": 1.5, "text": "a"}'], "has the row 1.5 in output 1"),
        (['{"row": 4, "label": "a"}'], "has no text for row 4"),
        (['{"row": 4, "text": ["a"]}'], "has a list as text for row 4"),
        (['{"row": 4, "text": 5}'], "has a number as text for row 4"),
        (['{"row": 4, "text": "\\ud800"}'], "has half a character in its text for row 4"),
        (['{"row": 0, "text": "a"}', "{row: 1}"], "line 2 is not JSON"),
        (["[1]"], "holds no list of JSON objects"),
        ([""], "holds no output"),
    ],
)
def test_outputs_that_are_none(tmp_path, lines, words):
    path = tmp_path / "o.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        read_outputs(str(path))


def test_no_file_of_outputs(tmp_path):
    with pytest.raises(DataError, match="no such file: /no/outputs"):
        read_outputs("/no/outputs")
    with pytest.raises(DataError, match="no such file"):
        read_outputs(str(tmp_path))


# --- code ----------------------------------------------------------------------------------------

PROBLEM = {"prompt": "def twice(x):\n", "test": "def check(f):\n    assert f(2) == 4\n", "entry_point": "twice"}


def test_code_runs_only_where_it_may():
    from wheretune.metrics.text.pass_at_one import PassAtOne, Problem, program

    outputs = ["    return 2 * x\n", "    return x\n", None, "```python\n    return x + x\n```\nThat is it."]
    with pytest.raises(ConfigError, match=r"runs the generated code, which is not allowed.*\(run_generated_code\)"):
        judge_texts(outputs, [PROBLEM] * 4, "pass-at-1")
    allowed = PassAtOne(run_generated_code=True, without_isolation=True, seconds=2)
    assert judge_texts(outputs, [PROBLEM] * 4, [allowed])[0].value == 0.5
    assert program("    return 2 * x", Problem(**PROBLEM)).splitlines()[1:3] == ["    return 2 * x", "def check(f):"]
    with pytest.raises(ConfigError, match="seconds is 0; give 1 or more"):
        PassAtOne(seconds=0)


def test_every_row_of_the_code_must_be_whole():
    with pytest.raises(DataError, match="row 1 has no text in 'test'"):
        judged([PROBLEM, {**PROBLEM, "test": None}], {0: "a", 1: "b"}, "pass-at-1")


def test_json_of_a_metric():
    found = judged(LISTS, dict(enumerate(HYPOTHESES)), "rouge-l")["rouge-l"].content()
    assert json.loads(json.dumps(found)) == {
        "name": "rouge-l", "value": pytest.approx(GOLDEN["all"]["rouge-l"]), "n": 5, "higher_is_better": True
    }  # fmt: skip
