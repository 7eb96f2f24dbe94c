"""`wheretune cost`: the same numbers as the plan's, other texts, epochs and batches, and what it refuses."""

import json

import pytest

from helpers.commands import one_line
from wheretune.records.base import load
from wheretune.records.cost import Cost


def planned(run, files, tiny_folder, tmp_path, *options, family="bert"):
    """A plan's file, and its content."""
    path = tmp_path / "plan.json"
    code, _, err = run("plan", "--model", tiny_folder(family), "--train", files["train"], *options, "--output", path)
    assert code == 0, err
    return path, json.loads(path.read_text())


def test_the_command(run, files, tiny_folder, tmp_path):
    path, plan = planned(run, files, tiny_folder, tmp_path, "--k", 2)
    arguments = ("cost", "--plan", path, "--data", files["train"])
    code, out, err = run(*arguments, "--output", tmp_path / "cost.json", "--json")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "cost.json").read_text()) == plan["cost"]  # the same numbers
    assert load(Cost, tmp_path / "cost.json").tokens == plan["cost"]["tokens"]
    assert json.loads(run("cost", path, *arguments[3:], "--json")[1]) == plan["cost"]  # without the flag
    assert run("cost", tmp_path, "--json")[1] == run("cost", "--plan", path, "--json")[1] != ""  # a run's folder
    one_line(*run("cost", path, *arguments[1:])[::2], "--plan has no effect with a plan that is given without it")

    code, out, err = run(
        *arguments, "--model", tiny_folder("bert"), "--epochs", 1, "--batch-size", 4, "--max-length", 5
    )
    assert code == 0, err
    for line in plan["cost"]["lines"]:
        assert line["name"] in out
    assert "a text of 5 tokens" in out or "a text of 4." in out
    assert "batches of 4 texts" in out and "over 1 epoch," in out and "at most" in out
    once = json.loads(run(*arguments, "--epochs", 1, "--json")[1])
    assert once["expected_speed_up"] < plan["cost"]["expected_speed_up"] < once["limit"] == plan["cost"]["limit"]
    few = json.loads(run(*arguments, "--max-samples", 7, "--json")[1])
    per_token = [one["lines"][-1]["memory"]["cache"] / one["tokens"] for one in (few, once)]
    assert per_token[1] == pytest.approx(per_token[0] * 40 / 7, rel=1e-3)


@pytest.mark.parametrize(
    "options", [("--tuner", "lora:r=2"), ("--tuner", "head-only", "--head", "concat"), ("--tuner", "bias")]
)
def test_tuners_cost_the_same_in_plan_and_command(run, files, tiny_folder, tmp_path, options):
    path, plan = planned(run, files, tiny_folder, tmp_path, *options, family="gpt2")
    for data in (("--data", files["train"]), ()):  # of these texts, or as the plan knows them
        code, out, err = run("cost", "--plan", path, *data, "--json")
        assert code == 0, err
        assert json.loads(out) == plan["cost"]


def test_what_the_command_refuses(run, files, tiny_folder, tmp_path):
    train = files["train"]
    path, _ = planned(run, files, tiny_folder, tmp_path, "--k", 2)
    arguments = ("cost", "--plan", path, "--data", train)
    for other in (tiny_folder("roberta", num_hidden_layers=3), tiny_folder("bert", hidden_size=64)):
        one_line(*run(*arguments, "--model", other)[::2], "the plan was made for", "layers of width")
    one_line(*run(*arguments, "--model", tiny_folder("gpt2"))[::2], "the plan was made for", "layers of other maps")
    for given in (arguments, arguments[:3]):
        one_line(*run(*given, "--epochs", 0)[::2], "epochs")
        one_line(*run(*given, "--batch-size", 0)[::2], "batch")
    one_line(*run("cost", "--data", train)[::2], "--plan")
    one_line(*run("cost", "--plan", tmp_path / "none.json", "--data", train)[::2], "cannot read")
    one_line(*run(*arguments, "--text-column", "body")[::2], "has no column 'body'")
    one_line(*run(*arguments, "--output", tmp_path)[::2], "is a folder")
