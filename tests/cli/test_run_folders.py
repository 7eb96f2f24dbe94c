"""Folders that runs leave behind: finished, stopped, killed, or begun with other settings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import FAST, SOURCE, one_line
from helpers.texts import jsonl, rows_of


@pytest.mark.slow
def test_a_finished_folder_is_not_lost(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command)[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    for more in ([], ["--resume"]):  # so that a loop may repeat it
        code, out, err = run(*command, *more)
        assert code == 0 and "engagement" in out, err
        assert err.count("nothing to do: finished 20") == 1
        assert f"result in {tmp_path / 'run' / 'result.json'}" in err
        assert (tmp_path / "run" / "result.json").read_bytes() == before
        said = ("other settings", "settings.seed: 0 there, 9 now", "(--overwrite)")
        one_line(*run(*command, *more, "--seed", 9)[::2], *said)
    assert run(*command, "--overwrite", "--seed", 9)[0] == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["spec"]["settings"]["seed"] == 9


@pytest.mark.slow
def test_a_mistake_with_overwrite_costs_nothing(run, files, tiny_folder, tmp_path):
    command = ["tune", "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command, "--model", tiny_folder("bert"))[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    for wrong in (["--model", "/no/model"], ["--model", tiny_folder("bert"), "--k", 9]):
        assert run(*command, "--overwrite", *wrong)[0] == 2
        assert (tmp_path / "run" / "result.json").read_bytes() == before


@pytest.mark.slow
def test_data_that_changed_is_not_mixed_with_what_it_was(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command)[0] == 0
    jsonl(Path(files["train"]), rows_of(39, 4))
    one_line(*run(*command, "--resume")[::2], "other settings (data")


NEWER = ("eyes", "tied", "vocabulary", "placement", "experts", "experts_per_token", "part", "bad_rows", "learned")


def age(path):
    """A file as it was before records had grown some fields."""

    def without(content):
        if isinstance(content, list):
            return [without(one) for one in content]
        if isinstance(content, dict):
            return {key: without(value) for key, value in content.items() if key not in NEWER}
        return content

    path.write_text(json.dumps(without(json.loads(path.read_text()))))


def test_a_folder_that_an_earlier_version_began_goes_on(run, files, scored, tmp_path):
    plan, folder = tmp_path / "plan.json", tmp_path / "run"
    assert run("plan", scored, "--k", 2, "--output", plan)[0] == 0
    command = ["tune", "--plan", plan, "--train", files["train"], "--output", folder, *FAST]
    assert run(*command)[0] == 0
    for path in (plan, folder / "plan.json", folder / "run.json"):
        age(path)
    code, _, err = run(*command)
    assert code == 0 and "nothing to do" in err
    one_line(*run(*command, "--seed", 9)[::2], "settings.seed: 0 there, 9 now")
    edited = json.loads(plan.read_text())
    edited["tuner"] = {"name": "bias", "params": {}}
    plan.write_text(json.dumps(edited))
    one_line(*run(*command)[::2], "other settings", "plan.tuner")


@pytest.mark.slow
def test_a_comparison_that_an_earlier_version_began_goes_on(run, files, tiny_folder, tmp_path):
    folder = tmp_path / "many"
    command = [
        "compare", "--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--k", 2,
        "--methods", "prism", "--seeds", "0", "--epochs", 1, "--output", folder,
    ]  # fmt: skip
    assert run(*command)[0] == 0
    for path in (folder / "compare.json", folder / "scores.json", *folder.glob("runs/*/*/*/run.json")):
        age(path)
    (result,) = folder.glob("runs/*/*/*/result.json")
    result.unlink()
    before = (folder / "scores.json").read_bytes()
    code, _, err = run(*command)
    assert code == 0, err
    assert result.is_file() and (folder / "scores.json").read_bytes() == before
    one_line(*run(*command, "--epochs", 2)[::2], "settings.epochs: 1 there, 2 now")


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_killed_while_it_trains_it_goes_on_and_ends_the_same(run, tiny_folder, tmp_path, pause):
    train = jsonl(tmp_path / "train.jsonl", rows_of(200))
    command = ["tune", "--model", tiny_folder("bert"), "--train", train, "--epochs", "12", "--batch-size", "4"]
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "wheretune", *command, "--output", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": SOURCE},
    )  # fmt: skip
    while not list(folder.glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    state = max(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    done = json.loads(state.read_text())["epoch"]
    assert 1 <= done < 12
    assert run(*command, "--output", folder)[0] == 0
    assert run(*command, "--output", tmp_path / "once")[0] == 0
    assert (folder / "delta.safetensors").read_bytes() == (tmp_path / "once" / "delta.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "once").iterdir()}


@pytest.mark.parametrize("selector", ["lowest", "suffix"])  # one says beforehand how many layers it chooses
def test_a_refused_run_leaves_its_folder_free(run, files, tiny_folder, tmp_path, selector):
    common = [
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST,
        "--select", selector, "--schedule", "lift",
    ]  # fmt: skip
    several = ["--k", 3] if selector == "lowest" else []
    steps = 2 if selector == "lowest" else 1
    code, _, err = run(*common, *several, "--max-steps", steps)
    one_line(code, err, "gives each of", "train for more steps")
    assert not (tmp_path / "run").exists()
    code, _, err = run(*common, *several, "--max-steps", 4)
    assert code == 0, err


@pytest.mark.slow
def test_a_refused_comparison_leaves_its_folder_free(run, files, tiny_folder, tmp_path):
    common = [
        "compare", "--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--k", 3,
        "--methods", "lowest+lift,top", "--learning-rates", "1e-3", "--seeds", "0", "--output", tmp_path / "many",
    ]  # fmt: skip
    one_line(*run(*common, "--max-steps", 2)[::2], "gives each of 3 layers a step, and there are 2")
    assert not (tmp_path / "many").exists()
    code, _, err = run(*common, "--max-steps", 3)
    assert code == 0, err
