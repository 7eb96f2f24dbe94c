"""A schedule that cannot serve is refused before anything is scored, shown, claimed or trained."""

import pytest

from helpers import language, two_stacks
from helpers.commands import FAST, one_line
from helpers.models import tiny_model
from helpers.texts import jsonl, rows_of
from wheretune import catalog
from wheretune.model.finding import find_layers
from wheretune.scoring import one_pass
from wheretune.studies import running

WRITING = ("--task", "generation", "--source-column", "source", "--target-column", "target")


@pytest.fixture
def nothing_done(monkeypatch):
    """Any scoring, and any run of a comparison, fails the test."""

    def scored(*_, **__):
        raise AssertionError("layers were scored")

    monkeypatch.setattr(one_pass, "gather", scored)
    monkeypatch.setattr(running.Work, "_run", scored)


@pytest.fixture
def t5(tmp_path):
    data = jsonl(tmp_path / "written.jsonl", two_stacks.rows())
    return ("--model", two_stacks.saved("t5", tmp_path / "t5"), "--train", data, *WRITING)


@pytest.fixture
def chat(tmp_path):
    return ("--model", language.kept(tmp_path / "model"), "--train", language.chats(tmp_path / "chat.jsonl"))


def refused(run, folder, *arguments, words):
    """A refusal in one line that leaves nothing behind and shows no plan."""
    code, out, err = run(*arguments, "--output", folder)
    one_line(code, err, *words)
    assert not folder.exists() and out == ""


@pytest.mark.usefixtures("nothing_done")
def test_salf_asks_for_classes(run, chat, tmp_path):
    for command in (("tune", *FAST), ("plan",)):
        for choice in ((), ("--k", "2")):
            given = (*command, *chat, "--schedule", "salf", *choice)
            refused(run, tmp_path / "run", *given, words=("--schedule: ", "has no classes", "salf"))


@pytest.mark.usefixtures("nothing_done")
def test_salf_asks_for_a_language_model(run, files, tiny_folder, tmp_path):
    given = ("--model", tiny_folder("bert"), "--train", files["train"], "--schedule", "salf")
    words = ("--schedule: the schedule salf", "is an encoder", "take another schedule, such as lift")
    refused(run, tmp_path / "run", "tune", *FAST, *given, words=words)
    refused(run, tmp_path / "plan.json", "plan", *given, words=words)


@pytest.mark.usefixtures("nothing_done")
def test_salf_asks_for_labels_that_are_one_word_each(run, decoder, tmp_path):
    numbers = jsonl(tmp_path / "numbers.jsonl", rows_of(24, regression=True))
    alike = jsonl(tmp_path / "alike.jsonl", [{**row, "label": f"good {i % 2}"} for i, row in enumerate(rows_of(24))])
    for data, words in ((numbers, "has no classes"), (alike, "begin with the same token")):
        given = ("tune", *FAST, "--model", decoder, "--train", data, "--schedule", "salf")
        refused(run, tmp_path / "run", *given, words=(words,))


@pytest.mark.usefixtures("nothing_done")
def test_recap_asks_for_a_model_that_can_be_smaller(run, t5, tmp_path):
    words = ("--schedule: ", "T5ForConditionalGeneration does not run with fewer heads")
    for command in (("tune", *FAST, "--epochs", "6"), ("plan",)):
        refused(run, tmp_path / "run", *command, *t5, "--schedule", "recap", words=words)
        refused(run, tmp_path / "run", *command, *t5, "--schedule", "recap", "--k", "1", words=words)


@pytest.mark.usefixtures("nothing_done")
def test_a_plan_is_looked_at_as_well(run, decoder, files, tmp_path):
    plan, numbers = tmp_path / "plan.json", jsonl(tmp_path / "numbers.jsonl", rows_of(24, regression=True))
    run("plan", "--model", decoder, "--train", files["train"], "--schedule", "salf", "--output", plan)
    run("plan", "--model", decoder, "--train", files["train"], "--schedule", "lift", "--output", tmp_path / "lift.json")
    given = ("tune", *FAST, "--train", numbers, "--plan")
    refused(run, tmp_path / "run", *given, plan, words=("has no classes",))
    few, words = ("--batch-size", "24"), ("--schedule: ", "each of 4 layers a step")
    refused(run, tmp_path / "run", *given, tmp_path / "lift.json", *few, words=words)


@pytest.mark.parametrize("method, words", [
    ("lisa:layers=9", "trains 9 layers at a time, and the plan has 4"),
    ("recap:rounds=60", "has 60 rounds, and there are 5 steps"),
    ("lisa+ia3+top:k=9", "k is 9"),
    ("lift+adalora", "needs its layers at every step"),
    ("lift+head-only", "tunes none"),
    ("top+lm", "reads every token"),
    ("salf:budget=geometric", "is an encoder, which predicts none; take another schedule"),
    ("budget:schedules=static+recap", "has 6 rounds, and there are 5 steps"),
    ("budget:schedules=lift+lisa+adalora", "needs its layers at every step"),
    ("budget:schedules=salf", "hangs on what a language model makes of each text"),
])  # fmt: skip
@pytest.mark.usefixtures("nothing_done")
def test_every_method_of_a_comparison_is_looked_at_before_the_first_trains(
    run, files, tiny_folder, tmp_path, method, words
):
    data = (
        "--model",
        tiny_folder("bert"),
        "--train",
        files["train"],
        "--test",
        files["test"],
        "--seeds",
        "0",
        *FAST[:2],
    )
    given = ("compare", *data, "--batch-size", "8", "--methods", f"full,{method}")
    refused(run, tmp_path / "compared", *given, words=(f"the method {method}", words))


def test_a_choice_that_hangs_on_scores_is_made_before_the_first_method_trains(
    run, files, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(running.Work, "_run", lambda *_: pytest.fail("a method was trained"))
    data = ("--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"])
    given = ("compare", *data, "--seeds", "0", "--methods", "full,budget:share=0.001")
    refused(run, tmp_path / "compared", *given, words=("the method budget:share=0.001", "pays for no layer"))


@pytest.mark.usefixtures("nothing_done")
def test_a_schedule_that_a_budget_names_is_looked_at_as_well(run, files, tiny_folder, tmp_path):
    given = ("tune", *FAST[:2], "--batch-size", "24", "--model", tiny_folder("bert"), "--train", files["train"])
    words = ("--schedule: ", "each of 4 layers a step")
    refused(run, tmp_path / "run", *given, "--select", "budget:schedules=static+lift", words=words)


def test_a_schedule_that_a_budget_chose_is_looked_at_before_the_first_method_trains(
    run, files, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(running.Work, "_run", lambda *_: pytest.fail("a method was trained"))
    names = catalog.names
    monkeypatch.setattr(catalog, "names", lambda axis: ("lift",) if axis == "schedule" else names(axis))  # any of one
    data = ("--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--seeds", "0")
    given = ("compare", *data, "--epochs", "1", "--batch-size", "39", "--methods", "full,budget:schedules=any:share=1")
    refused(run, tmp_path / "compared", *given, words=("the method budget:schedules=any", "each of 4 layers a step"))


def test_a_model_is_as_it_was_after_it_was_tried_smaller():
    from wheretune.schedules.recap import Recap

    model, _ = tiny_model("bert")
    stack = find_layers(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Recap().check_runs(stack, range(4))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
