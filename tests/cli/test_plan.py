"""`wheretune plan`: how many layers, and a plan that belongs to its model."""

import json
from pathlib import Path

import pytest

from helpers.commands import FAST, one_line
from helpers.texts import jsonl
from wheretune.judging import read_predictions


@pytest.mark.parametrize("k", [0, -3, 5])
def test_k_out_of_range(run, scored, tmp_path, k):
    code, _, err = run("plan", scored, "--k", k, "--output", tmp_path / "plan.json")
    one_line(code, err, f"k is {k}", "from 1 to 4")
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_for_another_model_and_a_delta_on_another_base(run, files, scored, tiny_folder, tmp_path):
    plan, other = tmp_path / "plan.json", tiny_folder("bert", seed=5)
    run("plan", scored, "--output", plan)
    code, _, err = run("tune", "--plan", plan, "--model", other, "--train", files["train"], "--output", tmp_path / "x")
    one_line(code, err, "the plan was made for")
    assert run("tune", "--plan", plan, "--train", files["train"], "--output", tmp_path / "run", *FAST)[0] == 0
    code, _, err = run("evaluate", tmp_path / "run", "--data", files["test"], "--model", other)
    one_line(code, err, "base model's weights")
    unknown = jsonl(tmp_path / "unknown.jsonl", [{"text": "a", "label": "good"}, {"text": "b", "label": "ugly"}])
    code, out, err = run("evaluate", tmp_path / "run", "--data", unknown, "--output", tmp_path / "e.json", "--json")
    assert code == 0 and "1 of 2 rows are of a class that the model was not trained on (ugly)" in err
    found = {metric["name"]: metric for metric in json.loads(out)["metrics"]}
    right = [one.right for one in read_predictions(tmp_path / "predictions-e.jsonl")]
    assert right[1] is False and found["accuracy"]["value"] == sum(right) / 2 and found["accuracy"]["n"] == 2
    assert json.loads(out)["not_counted"] == 0 and json.loads(out)["unknown_classes"] == 1
    assert found["macro-f1"]["value"] <= 0.5


def test_options_that_would_have_no_effect_are_refused(run, files, scored, tmp_path):
    plan = tmp_path / "plan.json"
    run("plan", scored, "--output", plan)
    for option in (["--k", 2], ["--head", "concat"], ["--select", "top"], ["--scorer", "cka"]):
        code, _, err = run("tune", "--plan", plan, "--train", files["train"], "--output", tmp_path / "new", *option)
        one_line(code, err, option[0], "no effect")


def test_a_plan_that_says_something_else_is_not_lost(run, first_scores, files, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("plan", first_scores, "--k", 1)[0] == run("plan", first_scores, "--k", 1)[0] == 0  # the same again
    before = Path("plan.json").read_bytes()
    said = "plan.json is there already and says something else; replace it (--overwrite), or give another --output"
    one_line(*run("plan", first_scores, "--k", 2)[::2], said)
    assert Path("plan.json").read_bytes() == before
    monkeypatch.setattr("wheretune.pipeline.choose", lambda *_, **__: pytest.fail("the work was done"))
    scored = ("plan", "--model", tiny_folder("bert"), "--train", files["train"])
    one_line(*run(*scored)[::2], "plan.json is there already; replace it (--overwrite), or give another --output")
    assert run("plan", first_scores, "--k", 2, "--overwrite")[0] == 0
    assert Path("plan.json").read_bytes() != before


def test_a_map_that_shows_something_else_is_not_lost(run, tmp_path):
    common = ("schedule", "--layers", 6, "--steps", 12, "--figure", tmp_path / "map.png", "--schedule")
    assert run(*common, "lisa")[0] == run(*common, "lisa")[0] == 0
    one_line(*run(*common, "lift")[::2], "map.png is there already", "--overwrite", "--figure")
    assert run(*common, "lift", "--overwrite")[0] == 0


def test_a_plan_of_scores_says_that_tune_settles_the_head(run, first_scores, tmp_path):
    given = ("plan", first_scores, "--overwrite", "--output", tmp_path / "plan.json")
    for head, settled in (("last-token", False), ("concat", True)):
        _, out, err = run(*given, "--head", head)
        assert ("the head is settled by tune" in err) != settled
        assert ("(tune settles it)" in out) != settled
