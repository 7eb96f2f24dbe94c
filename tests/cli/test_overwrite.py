"""A file that is there is not replaced by what says something else, unless it is asked for, by whatever command."""

import pytest

from helpers.commands import FAST, one_line

KEPT = "what somebody wrote"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned") / "run"


@pytest.fixture
def made(run, files, tiny_folder, tuned):
    if not tuned.exists():
        given = ("--model", tiny_folder("bert"), "--train", files["train"], "--output", tuned, "--k", 1)
        assert run("tune", *given, *FAST)[0] == 0
    return tuned


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (("evaluate", "{run}"), True),
        (("predict", "{run}"), True),
        (("export", "{run}", "--to", "peft"), False),
        (("cost", "{run}"), False),
        (("cost", "{run}"), True),
        (("plan", "{scores}"), False),
    ],
)
def test_a_file_that_says_something_else_stays(run, files, made, first_scores, tmp_path, command, data):
    place = tmp_path / "there.json"
    given = [word.format(run=made, scores=first_scores) for word in command] + ["--output", place]
    given += ["--data", files["test"]] if data else []
    if command[0] == "export":
        given[1] = str(tmp_path / "plan.json")
        run("plan", first_scores, "--tuner", "lora", "--output", given[1])
    place.write_text(KEPT)
    code, out, err = run(*given)
    one_line(code, err, "there.json is there already", "--overwrite")
    assert place.read_text() == KEPT and not out and {*tmp_path.glob("predictions-*")} == set()
    code, _, err = run(*given, "--overwrite")
    assert code == 0 and place.read_text() != KEPT, err
    code, _, err = run(*given)
    assert code == (2 if command[0] in ("evaluate", "predict") else 0), (
        err
    )  # what is quickly made is seen to be the same


def test_the_predictions_of_a_run_are_not_replaced_by_an_evaluation_beside_it(run, files, made, tmp_path):
    beside = tmp_path / "predictions-test.jsonl"
    beside.write_text(KEPT)
    given = ("evaluate", made, "--data", files["test"], "--output", tmp_path / "test.json")
    one_line(*run(*given)[::2], "predictions-test.jsonl is there already")
    assert beside.read_text() == KEPT and not (tmp_path / "test.json").exists()
