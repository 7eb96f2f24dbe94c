"""What computes nothing, and what is refused, opens neither torch nor Transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import SOURCE
from helpers.often import often
from helpers.texts import jsonl, rows_of

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "matplotlib", "sklearn")
CHECK = """
import sys
from wheretune.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    print("code", stopped.code or 0, "opened", *[name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def alone(folder, *arguments):
    """Runs a command in a process of its own: its code, what heavy packages it opened, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(heavy=HEAVY), *map(str, arguments)],
        env={"PYTHONPATH": SOURCE, "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    words = done.stderr.splitlines()[-1].split()
    return int(words[1]), words[3:], done.stderr


@pytest.fixture
def files(run, first_scores, tmp_path):
    plan = tmp_path / "plan.json"
    run("plan", first_scores, "--k", 1, "--output", plan)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 4}))
    (tmp_path / "spec.yaml").write_text("model: {name: model}\ntrain: {source: one.jsonl}\ntuner: {name: lorra}\n")
    return {
        "scores": first_scores,
        "plan": plan,
        "model": tmp_path / "model",
        "train": jsonl(tmp_path / "train.jsonl", rows_of(8)),
        "one": jsonl(tmp_path / "one.jsonl", [{"text": "a", "label": 1}] * 5),
        "spec": tmp_path / "spec.yaml",
        "tuned": Path(__file__).parents[1] / "fixtures" / "first_house" / "bert-lora",
    }


@pytest.mark.parametrize(
    "arguments",
    often(
        [
            ["--version"],
            ["--help"],
            ["tune", "--help"],
            ["scorers"],
            ["selectors", "--json"],
            ["tuners"],
            ["tasks"],
            ["metrics"],
            ["schedules"],
            ["schedule", "--schedule", "lisa:layers=2:every=20", "--layers", "12", "--steps", "60", "--json"],
            ["plan", "{scores}", "--k", "2", "--near", "0.01", "--tuner", "lora:r=4", "--output", "new"],
            ["plan", "{scores}", "--select", "budget", "--budget", "0.8", "--overwrite"],
            ["cost", "--plan", "{plan}", "--epochs", "5", "--output", "cost.json"],
            ["export", "{plan}", "--to", "axolotl"],
            ["export", "{plan}", "--to", "llama-factory"],
        ],
        lambda given: given[0] not in ("selectors", "tasks", "metrics"),
    ),
    ids=lambda arguments: "-".join(arguments),
)
def test_what_computes_nothing_is_quick(files, tmp_path, arguments):
    code, opened, err = alone(tmp_path, *[argument.format(**files) for argument in arguments])
    assert (code, opened) == (0, []), err


REFUSED = [
    (["plan", "{scores}", "--k", "9"], "--k is 9"),
    (["plan", "/no/scores.json"], "cannot read"),
    (["plan", "{scores}", "--preset", "salf"], "no scores by"),
    (["plan", "{scores}", "--select", "auto", "--near", "0.1"], "--near"),
    (["score", "--model", "{model}", "--train", "{train}", "--scorer", "ckaa"], "cka"),
    (["score", "--model", "{model}", "--train", "/no/file.csv"], "no such file"),
    (["score", "--model", "{model}", "--train", "{one}", "--scorer", "fisher"], "one class only"),
    (["score", "--model", "/no/model", "--train", "{train}"], "/no/model"),
    (["score", "--model", "{model}", "--train", "{train}", "--shard", "3/2"], "--shard"),
    (["tune", "--model", "{model}", "--train", "{one}", "--output", "run"], "one class only"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--epochs", "0"], "--epochs is 0"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--near", "2"], "--near"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--schedule", "lift", "--tuner",
      "adalora"], "adalora needs its layers at every step"),
    (["tune", "--plan", "/no/plan.json", "--train", "{train}", "--output", "run"], "cannot read"),
    (["compare", "--model", "{model}", "--train", "{train}", "--test", "{train}", "--output", "run", "--methods",
      "ful"], "'ful'"),
    (["compare", "--model", "{model}", "--train", "{train}", "--test", "/no.csv", "--output", "run"], "/no.csv"),
    (["compare", "--model", "{model}", "--train", "{train}", "--test", "{train}", "--output", "run",
      "--learning-rates", "1e-3,1e-4"], "--validation"),
    (["compare", "--model", "{model}", "--train", "{train}", "--test", "{train}", "--output", "run", "--k", "99"],
     "--k is 99"),
    (["compare", "--model", "{model}", "--train", "{train}", "--test", "{train}", "--output", "run", "--methods",
      "full,top:k=9"], "k is 9"),
    (["run", "{spec}", "--output", "run"], "did you mean lora"),
    (["cost", "--plan", "{plan}", "--data", "/no.csv"], "/no.csv"),
    (["score", "--model", "{model}", "--train", "{train}", "--k", "5"], "--k is 5"),
    (["plan", "--model", "{model}", "--train", "{train}", "--k", "5"], "--k is 5"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--k", "5"], "--k is 5"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--device", "cuda"], "no cuda"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "run", "--attention", "flash_attention_2"],
     "flash-attn is not installed"),
    (["tune", "--model", "{model}", "--train", "{train}", "--output", "/proc/run"], "/proc/run"),
    (["evaluate", "model", "--data", "{train}"], "no finished delta"),
    (["evaluate", "{tuned}", "--data", "/no.csv"], "/no.csv"),
    (["evaluate", "{tuned}", "--data", "{train}", "--also", "/no.txt"], "/no.txt"),
    (["evaluate", "{tuned}", "--data", "{train}", "--label-column", "kind"], "no column 'kind'"),
    (["evaluate", "{tuned}", "--data", "{train}", "--output", "/proc/run/a.json"], "/proc/run"),
    (["predict", "{tuned}", "--data", "/no.csv"], "/no.csv"),
    (["merge", "model", "--output", "model"], "already exists"),
    (["merge-scores", "/no/shard"], "/no/shard"),
    (["inspect", "/no/model"], "/no/model"),
    (["nonsense"], "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    often(REFUSED, REFUSED[::3]),
    ids=lambda value: "-".join(value)[:70] if isinstance(value, list) else None,
)  # fmt: skip
def test_what_is_refused_is_refused_quickly(files, tmp_path, arguments, words):
    code, opened, err = alone(tmp_path, *[argument.format(**files) for argument in arguments])
    assert (code, opened) == (2, []) and words in err, err
    assert not (tmp_path / "run").exists()
