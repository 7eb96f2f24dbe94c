"""What the command line says: the option at fault, what a file is, what a stop leaves, and numbers without riddles."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import FAST, SOURCE, one_line
from helpers.texts import jsonl, rows_of
from wheretune.records.base import Spec
from wheretune.records.cost import Cost
from wheretune.records.scores import Settlement
from wheretune.studies.methods import read_all


@pytest.fixture
def planned(run, first_scores, tmp_path):
    assert run("plan", first_scores, "--k", 1, "--output", tmp_path / "plan.json")[0] == 0
    return tmp_path / "plan.json"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "{scores}", "--k", "abc"], ["--k is 'abc'; give a whole number"]),
        (["plan", "{scores}", "--near", "x"], ["--near is 'x'; give a number"]),
        (["score", "--dtype", "fp64"], ["--dtype is 'fp64'; give auto, fp32, bf16, fp16"]),
        (["score", "--attention", "fast"], ["--attention is 'fast'", "flash_attention_2"]),
        (["scor"], ["no command 'scor'; did you mean score?"]),
        (["plan", "{scores}", "--quux"], ["no option --quux; see --help"]),
        (["plan", "{scores}", "--ratio", "2"], ["--ratio is 2", "up to 1"]),
        (["plan", "{scores}", "--near", "-1"], ["--near", "is -1", "from 0 to below 1"]),
        (["plan", "{scores}", "--select", "explicit"], ["--layers", "no layer is named"]),
        (["plan", "{scores}", "--select", "highest:k=x"], ["--select", "k is 'x'"]),
        (["plan", "{scores}", "--select", "highest:k=9"], ["--select", "k is 9"]),
        (["plan", "{scores}", "--k", "9"], ["--k is 9"]),
        (["plan", "{scores}", "--tuner", "lora", "--tuner-option", "r=x"], ["--tuner", "r is 'x'"]),
        (["plan", "{plan}"], ["plan.json is a plan, and a scores file is wanted", "wheretune score writes one"]),
        (["cost", "--plan", "{scores}"], ["is a scores file, and a plan is wanted", "wheretune plan writes one"]),
        (["run", "{plan}", "--output", "{new}"], ["is a plan, and a spec of a run is wanted"]),
        (["cost", "--plan", "{bent}"], ["bent.json: there is no tuner 'lorra'", "did you mean lora?"]),
        (["cost", "--plan", "{odd}"], ["odd.json is not a valid plan: colour: unknown field"]),
        (["cost", "--plan", "{list}"], ["list.json is not a valid plan: give fields with values"]),
        (["export", "{bent}"], ["bent.json", "lorra"]),
        (["score", "--model", "{model}", "--train", "{train}", "--attention", "flash-attention-2"],
         ["--attention", "flash-attn is not installed"]),
        (["score", "--model", "{model}", "--train", "{train}", "--output", "/proc/no/scores.json"],
         ["cannot write /proc/no/scores.json"]),
        (["tune", "--model", "{model}", "--train", "{train}", "--output", "/dev/null"], ["--output", "is no folder"]),
        (["tune", "--model", "{model}", "--train", "{train}", "--output", "/proc/no"], ["--output", "cannot write"]),
        (["compare", "--model", "{model}", "--train", "{train}", "--test", "{train}", "--output", "{new}", "--methods",
          "top:k=x"], ["--methods", "k is 'x'"]),
    ],
    ids=lambda value: "-".join(value)[:70] if isinstance(value, list) else None,
)  # fmt: skip
def test_the_fault_is_named_and_a_way_out(run, planned, first_scores, tmp_path, arguments, words):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    content = json.loads(planned.read_text())
    made = {"bent": content | {"tuner": {"name": "lorra", "params": {}}}, "odd": content | {"colour": 1}, "list": [1]}
    for name, what in made.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(what))
    places = {name: tmp_path / f"{name}.json" for name in made}
    places |= {"scores": first_scores, "plan": planned, "model": tmp_path / "model", "new": tmp_path / "new"}
    places["train"] = jsonl(tmp_path / "train.jsonl", rows_of(8))
    one_line(*run(*[argument.format(**places) for argument in arguments])[::2], *words)
    assert not (tmp_path / "new").exists() and not Path("/dev/null").is_dir()


def test_a_device_that_is_not_there_is_refused_under_its_flag(run, tiny_folder, files, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # of /dev
    one_line(
        *run("score", "--model", tiny_folder("bert"), "--train", files["train"], "--device", "cuda")[::2],
        "--device", "there is no cuda on this machine",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words", "how", "expected"),
    [
        ("tune", "stopped; give the same command again to continue from the last finished epoch", signal.SIGINT, 130),
        ("compare", "stopped; give the same command again to run only what is missing", signal.SIGTERM, 143),
        ("score", "stopped; no scores were written; the same command goes on from what was kept", signal.SIGTERM, 143),
    ],
)
def test_what_a_stop_leaves_is_said(run, tiny_folder, files, tmp_path, monkeypatch, command, words, how, expected):
    def stopped(*_, **__):
        if how == signal.SIGINT:
            raise KeyboardInterrupt  # what Python makes of it; a job in the background ignores the signal itself
        signal.raise_signal(how)

    monkeypatch.setattr("wheretune.session.Session.data", stopped)
    more = ["--test", files["test"]] if command == "compare" else []
    code, _, err = run(
        command, "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "new", *more
    )
    assert code == expected and words in err and "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_a_command_ends_with_its_last_word():
    """Not after a look for garbage in all that torch has made."""
    code = (
        "import atexit, gc; from wheretune.cli.app import main\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\nmain(['--version'])"
    )  # runs last
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE},
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert found.stdout.splitlines()[-1] == "frozen True"


def test_a_shard_says_what_is_next(run, tiny_folder, files, tmp_path):
    code, _, err = run(
        "score", "--model", tiny_folder("bert"), "--train", files["train"], "--shard", "1/2", "--batch-size", 8,
        "--output", tmp_path / "s.safetensors",
    )  # fmt: skip
    assert code == 0 and "wheretune merge-scores" in err


@pytest.mark.slow
def test_the_plan_of_a_run_is_priced_at_its_own_epochs(run, tiny_folder, files, tmp_path):
    code, out, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST
    )
    assert code == 0 and "over 1 epoch," in out, out + err


def test_methods_named_twice_run_once_and_that_is_said(caplog):
    assert [method.name for method in read_all("top,bottom,top")] == ["top", "bottom"]
    assert "the method top is named 2 times and runs once" in caplog.text


def test_what_is_shown_leaves_out_what_was_not_asked_for():
    assert str(Spec("explicit", {"layers": (1, 3), "every": False})) == "explicit(layers=1+3)"
    assert str(Spec("highest", {"k": 2, "ratio": None})) == "highest(k=2)"
    said = Settlement(Spec("top"), (1,), True, 40, 0.95, 0.0, "asymptotic", ())
    assert "settled after 40 samples" in str(said)
    ended = Settlement(Spec("top"), (1,), True, 40, 0.95, 0.0, "asymptotic", (), texts=40)
    assert "settled once all 40 samples were read" in str(ended)
    assert "over 1 epoch," in str(Cost(1, 2, 1.5, 2.0, 3.0, 4, 5, 1, ()))
