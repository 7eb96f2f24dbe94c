"""A result is made again from its spec; predictions are kept row by row; a model is held as it is asked to be."""

import json

import pytest
import yaml

from helpers.commands import FAST, one_line
from helpers.texts import jsonl, rows_of
from wheretune.judging import read_predictions


@pytest.fixture
def tuned(run, files, tiny_folder, tmp_path):
    code, _, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--validation", files["validation"],
        "--test", files["test"], "--metric", "matthews", "--tuner", "lora:r=2", "--k", 2, "--seed", 3,
        "--output", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert code == 0, err
    return tmp_path / "run"


def numbers(folder):
    result = json.loads((folder / "result.json").read_text())
    return result["metrics"], result["plan"]["layers"], result["steps"]


def test_a_result_is_made_again(run, tuned, tmp_path):
    code, out, err = run("run", tuned / "result.json", "--output", tmp_path / "again", "--cache-prefix", "off")
    assert code == 0 and "●" in out, err
    assert numbers(tmp_path / "again") == numbers(tuned)
    for name in ("predictions-test.jsonl", "delta.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tuned / name).read_bytes()
    spec = json.loads((tuned / "result.json").read_text())["spec"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    code, out, err = run("run", tmp_path / "spec.yaml", "--output", tmp_path / "yaml", "--json")
    assert code == 0 and json.loads(out)["spec"] == spec, err
    assert numbers(tmp_path / "yaml") == numbers(tuned)
    code, out, err = run("run", tmp_path / "spec.yaml", "--output", tmp_path / "yaml", "--json")
    assert code == 0 and "nothing to do: finished" in err and json.loads(out)["spec"] == spec


def test_a_spec_needs_a_model_and_data_alone(run, files, tiny_folder, tmp_path, monkeypatch):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"model: {{name: {tiny_folder('bert')}}}\ntrain: {{source: train.jsonl}}\n"
        "settings: {epochs: 1, learning_rate: 1e-3}\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = run("run", spec, "--output", "run", "--json")
    result = json.loads(out)
    assert code == 0 and len(result["plan"]["layers"]) == 1, err  # a quarter of four
    assert result["spec"]["train"]["source"] == files["train"]  # found from elsewhere too
    spec.write_text(spec.read_text() + "trian: 1\n")
    one_line(*run("run", spec, "--output", "other")[::2], "trian")
    assert not (tmp_path / "other").exists()


def test_evaluate_keeps_the_prediction_of_every_row(run, files, tuned, tmp_path):
    target = tmp_path / "test.json"
    code, out, err = run(
        "evaluate", tuned, "--data", files["test"], "--output", target, "--metric", "matthews", "--json"
    )
    assert code == 0 and json.loads(out) == json.loads(target.read_text()), err
    written = json.loads(target.read_text())
    assert [metric["name"] for metric in written["metrics"]].count("matthews") == 1
    assert written["metrics"] == json.loads((tuned / "result.json").read_text())["metrics"]["test"]
    rows = read_predictions(tmp_path / written["predictions"])
    assert [row.row for row in rows] == list(range(14)) and {row.truth for row in rows} == {"good", "bad"}
    accuracy = sum(bool(row.right) for row in rows) / 14
    assert written["metrics"][0]["value"] == pytest.approx(accuracy)
    assert rows == read_predictions(tuned / "predictions-test.jsonl")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_is_held_as_it_is_asked_to_be(run, files, tiny_folder, tmp_path, attention):
    path = tmp_path / "s.json"
    code, _, err = run(
        "score", "--model", tiny_folder("bert"), "--train", files["train"], "--dtype", "bf16", "--device", "cpu",
        "--attention", attention, "--output", path,
    )  # fmt: skip
    assert code == 0, err
    spec = json.loads(path.read_text())["model"]["spec"]
    assert (spec["dtype"], spec["device"], spec["attention"]) == ("bf16", "cpu", attention)
    one_line(
        *run("score", "--model", tiny_folder("bert"), "--train", files["train"], "--device", "cuda:7")[::2], "cuda:7"
    )


@pytest.mark.slow
def test_a_finished_run_is_judged_by_another_metric_from_its_predictions(run, files, tiny_folder, tmp_path):
    common = (
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--k", 2,
        "--output", tmp_path / "run", *FAST, "--json",
    )  # fmt: skip
    first = json.loads(run(*common)[1])
    code, out, err = run(*common, "--metric", "balanced")
    assert code == 2 and "balanced" in err
    result = tmp_path / "run" / "result.json"
    before = json.loads(result.read_text())
    before["metrics"]["test"] = [one for one in first["metrics"]["test"] if one["name"] != "matthews"]
    result.write_text(json.dumps(before))
    code, out, err = run(*common, "--metric", "matthews")
    assert code == 0 and "nothing to do: finished" in err
    found = {one["name"]: one for one in json.loads(out)["metrics"]["test"]}
    assert found == {one["name"]: one for one in first["metrics"]["test"]}
    assert json.loads(result.read_text()) == json.loads(out) and json.loads(out)["spec"]["metrics"] == ["matthews"]
    code, out, err = run(*common, "--metric", "log-loss")
    assert code == 0 and "evaluate --metric log-loss` gives it" in err


def test_a_base_model_that_was_moved_is_named_anew(run, files, tuned, tmp_path, tiny_folder):
    import shutil

    moved = shutil.copytree(tiny_folder("bert"), tmp_path / "moved")
    code, out, err = run("predict", tuned, "--data", files["test"], "--model", moved, "--device", "cpu")
    assert code == 0 and len(out.splitlines()) == 14, err


def test_cost_without_data_takes_what_the_plan_knows(run, files, tiny_folder, tmp_path):
    plan = tmp_path / "plan.json"
    code, _, err = run("plan", "--model", tiny_folder("bert"), "--train", files["train"], "--output", plan, "--k", 2)
    assert code == 0, err
    found = [
        json.loads(run("cost", "--plan", plan, "--epochs", 4, "--json", *more)[1])
        for more in ([], ["--data", files["train"]])
    ]
    assert found[0]["lines"] == found[1]["lines"] and found[0]["epochs"] == 4


def test_a_plan_from_a_model_needs_labels_where_a_scorer_does(run, tiny_folder, tmp_path):
    bare = jsonl(tmp_path / "bare.jsonl", [{"text": row["text"]} for row in rows_of(12)])
    common = ("plan", "--model", tiny_folder("bert"), "--train", bare, "--output", tmp_path / "p.json", "--overwrite")
    assert run(*common)[0] == 0
    code, out, err = run(*common, "--select", "top", "--k", 2, "--json")
    assert code == 0 and json.loads(out)["layers"] == [2, 3] and json.loads(out)["scorer"] is None, err
    one_line(*run(*common, "--scorer", "fisher")[::2], "no column 'label'")
    code, out, err = run(*common, "--layers", "all", "--json")
    assert code == 0 and json.loads(out)["layers"] == [0, 1, 2, 3], err
