"""Options: help, groups, flags in errors, underscores, and one reader for every axis."""

import json
import subprocess
import sys

import pytest
import typer.main

import wheretune
from helpers.commands import SOURCE, one_line
from wheretune import catalog
from wheretune.cli import reading, training
from wheretune.cli.app import COMMANDS, application, spelled
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.records.scores import Reading

TUNE = ["tune", "--output", "o", "--model", "m", "--train", "t"]
EVERY = typer.main.get_command(application()).commands
OPENING = ("score", "plan", "tune", "compare", "run", "cost", "evaluate", "predict", "merge")
PANELS = {"Model", "Data", "Reading", "Choice", "Training", "Spreading", "Savings", "Writing", "Output", None}


@pytest.mark.parametrize("name", EVERY)
def test_every_command_says_what_it_does_and_shows_how(run, name):
    code, out, _ = run(name, "--help")
    help_of = EVERY[name].help
    assert code == 0 and "For example" in out and f"wheretune {name}" in out
    assert len(help_of.splitlines()[0]) < 110 and help_of.splitlines()[0].endswith(".")
    assert {
        parameter.rich_help_panel for parameter in EVERY[name].params if hasattr(parameter, "rich_help_panel")
    } <= PANELS


def test_the_version(run):
    code, out, _ = run("--version")
    assert code == 0 and out == f"wheretune {wheretune.__version__}\n"


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert code == 2 and "Usage" in out + err and "error:" not in err


def test_every_command_of_the_table_is_there():
    assert list(EVERY) == [name for commands in COMMANDS.values() for name in commands]


@pytest.mark.parametrize("name", OPENING)
def test_every_command_that_opens_a_model_says_how(name):
    flags = {option for parameter in EVERY[name].params for option in parameter.opts}
    assert {"--model", "--revision", "--dtype", "--device", "--attention"} <= flags


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_the_same_option_means_the_same(name):
    (output,) = [parameter for parameter in EVERY[name].params if "--output" in parameter.opts]
    assert output.rich_help_panel == "Output"


def test_an_option_is_described_once():
    seen = {}
    for command in EVERY.values():
        for parameter in command.params:
            if parameter.opts[0] in ("--revision", "--dtype", "--device", "--text-column", "--k", "--epochs", "--seed"):
                seen.setdefault(parameter.opts[0], set()).add(parameter.help)
    assert {flag: len(ways) for flag, ways in seen.items() if len(ways) > 1 and flag != "--epochs"} == {}


def test_the_defaults_of_a_group_are_those_of_the_record():
    made = training.TrainingOptions()
    settings = made.settings(training.SavingOptions(), learning_rate=training.rate_of(made.learning_rate), seed=0)
    assert settings == TrainSettings()
    assert reading.ReadingOptions().reading(0) == Reading()
    assert training.CacheOptions().settings() == training.KeptCacheOptions().settings() == CacheSettings()


@pytest.mark.parametrize(
    ("problem", "field", "said"),
    [
        ("max length is 0", "max_length", "--max-length is 0"),
        ("the seed is -1", "seed", "--seed is -1"),
        ("k is 9, but the model has 4 layers", "k", "--k is 9, but the model has 4 layers"),
        ("there is no device 'gpu'", "device", "--device: there is no device 'gpu'"),
        ("until_settled needs the whole", "until_settled", "--until-settled needs the whole"),
    ],
)
def test_an_error_names_the_flag_of_its_field(problem, field, said):
    assert spelled(problem, field, f"--{field.replace('_', '-')}") == said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--model", "m", "--train", "t", "--device", "gpu"], ["--device", "cuda:N"]),
        (["score", "--model", "m", "--train", "t", "--dtype", "fp64"], ["--dtype", "bf16"]),
        (["score", "--modle", "m"], ["no option --modle", "--model"]),
        ([*TUNE, "--warmup_ratio", "2"], ["--warmup-ratio is 2"]),
        ([*TUNE, "--weight-decay", "-1"], ["--weight-decay is -1"]),
        ([*TUNE, "--tuner", "lora:r=x"], ["r is 'x'"]),
        ([*TUNE, "--tuner", "lora:rank=8"], ["no option 'rank'"]),
        ([*TUNE, "--schedule", "statc"], ["static"]),
        ([*TUNE, "--head", "concat:x=1"], ["no option 'x'"]),
        ([*TUNE, "--task", "clasification"], ["classification"]),
        ([*TUNE, "--metric", "acuracy"], ["accuracy"]),
        (
            [*TUNE, "--select", "highest:k=2", "--k", "3"],
            ["--k has no"],
        ),
        ([*TUNE, "--select", "top", "--layers", "1"], ["--layers"]),
        (
            [*TUNE, "--cache-limit", "much"],
            ["--cache-limit is 'much'"],
        ),
        ([*TUNE, "--keep-cache"], ["--keep-cache"]),
        ([*TUNE, "--max-samples", "0"], ["--max-samples is 0"]),
        (["cost", "--plan", "{plan}", "--text-column", "x"], ["--text-column has no effect", "--data"]),
        (["export", "{plan}", "--to", "axolotel"], ["axolotl"]),
        (["compare", "--model", "m", "--output", "o", "--train", "t", "--test", "t", "--recipe", "olf"], ["olft"]),
        (["compare", "--model", "m", "--output", "o", "--train", "t"], ["--test is missing"]),
        (["run", "/no/spec.yaml", "--output", "o"], ["/no/spec.yaml"]),
    ],
    ids=lambda value: "-".join(value)[-60:] if isinstance(value, list) else None,
)
def test_what_is_refused_in_one_line(run, planned, arguments, words):
    code, _, err = run(*[argument.format(plan=planned) for argument in arguments])
    one_line(code, err, *words)


@pytest.fixture
def planned(run, first_scores, tmp_path):
    assert run("plan", first_scores, "--k", 1, "--output", tmp_path / "plan.json")[0] == 0
    return tmp_path / "plan.json"


def test_underscores_are_taken_for_dashes(run, first_scores, tmp_path):
    code, out, err = run("plan", first_scores, "--tuner_option", "r=4", "--tuner", "lora", "--output", tmp_path / "p")
    assert code == 0 and "r=4" in out, err
    assert run("merge_scores", "--help")[0] == 0


def test_one_reader_for_every_axis(run, first_scores, tmp_path):
    code, out, err = run(
        "plan", first_scores, "--select", "highest:ratio=0.5", "--tuner", "lora:r=4:targets=all-linear", "--head",
        "last-token:dropout=0", "--schedule", "static", "--output", tmp_path / "p.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    for said in ('"r": 4', '"targets": "all-linear"', '"dropout": 0.0', '"name": "highest"'):
        assert said in out


@pytest.mark.parametrize("axis", ["scorer", "selector", "tuner", "head", "task", "metric", "schedule"])
def test_every_axis_is_listed(run, axis):
    code, out, _ = run(f"{axis}s", "--json")
    found = json.loads(out)
    assert code == 0 and set(found) == set(catalog.names(axis)) and all("options" in what for what in found.values())
    code, out, _ = run(f"{axis}s")
    assert code == 0 and all(name[:10] in out for name in catalog.names(axis))


def test_every_scorer_names_a_selector_that_there_is(run):
    cards = json.loads(run("scorers", "--json")[1])
    assert {card["selector"] for card in cards.values()} <= set(catalog.names("selector"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [("wheretune sc", "score"), ("wheretune tune --tuner lo", "lora"), ("wheretune score --dty", "--dtype")],
)
def test_the_shell_completes(words, offered):
    done = subprocess.run(
        [sys.executable, "-c", "from wheretune.cli.app import main; main()"],
        env={"_WHERETUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
             "PYTHONPATH": SOURCE, "PATH": "/usr/bin:/bin", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert offered in done.stdout.split(), done.stderr
