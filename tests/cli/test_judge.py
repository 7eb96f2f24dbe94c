"""`wheretune judge`, as a script sees it: what stands on standard output, on standard error, and the code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import SOURCE, one_line
from helpers.e2e import GOLDEN, HYPOTHESES, REFERENCES
from helpers.texts import jsonl

FIVE = "bleu,nist,meteor,rouge-l,cider"


@pytest.fixture
def e2e(tmp_path):
    rows = [{"mr": f"m{i}", "references": list(one)} for i, one in enumerate(REFERENCES)]
    outputs = [{"row": i, "text": text} for i, text in enumerate(HYPOTHESES)]
    return jsonl(tmp_path / "outputs.jsonl", outputs[::-1]), jsonl(tmp_path / "test.jsonl", rows)


def test_json_and_nothing_else(run, e2e, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outputs, data = e2e
    code, out, err = run("judge", outputs, "--data", data, "--metrics", FIVE, "--json")
    found = json.loads(out)
    assert code == 0 and list(found) == ["metrics"] and out.count("\n") == 1
    assert [one["name"] for one in found["metrics"]] == FIVE.split(",")
    for one in found["metrics"]:
        if one["name"] == "meteor":
            assert one.pop("reason").startswith("METEOR needs Java") and one["value"] is None
        else:
            assert one["value"] == pytest.approx(GOLDEN["all"][one["name"]], abs=1e-12)
        assert set(one) == {"name", "value", "n", "higher_is_better"} and one["n"] == 5 and one["higher_is_better"]
    assert "meteor is left out: METEOR needs Java" in err


def test_a_table_for_people(run, e2e):
    outputs, data = e2e
    code, out, _ = run("judge", outputs, "--data", data, "--metrics", "rouge-l", "--metrics", "cider,cider")
    assert code == 0 and "0.5500" in out and "2.6707" in out and out.count("cider") == 1


def test_meteor_alone_without_java(run, e2e, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = run("judge", e2e[0], "--data", e2e[1], "--metrics", "meteor", "--json")
    one_line(code, err, "METEOR needs Java", "install")
    assert out == ""


def test_sources_and_columns(run, tmp_path):
    rows = [{"q": "same", "gold": "a"}, {"q": "other", "gold": "c"}, {"q": "same", "gold": "b"}]
    data = jsonl(tmp_path / "test.jsonl", rows)
    outputs = jsonl(tmp_path / "outputs.jsonl", [{"row": i, "text": text} for i, text in enumerate("bca")])
    asked = ("judge", outputs, "--data", data, "--metrics", "exact-match", "--references-column", "gold", "--json")
    assert json.loads(run(*asked)[1])["metrics"][0]["value"] == pytest.approx(1 / 3)
    shared = json.loads(run(*asked, "--source-column", "q")[1])["metrics"][0]
    assert (shared["value"], shared["n"]) == (1, 3)
    once = json.loads(run(*asked, "--source-column", "q", "--each-source-once")[1])["metrics"][0]
    assert (once["value"], once["n"]) == (1, 2)


def test_code_is_run_where_it_is_allowed(run, tmp_path):
    problem = {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}
    data = jsonl(tmp_path / "test.jsonl", [problem] * 2)
    outputs = jsonl(
        tmp_path / "outputs.jsonl", [{"row": 0, "text": "    return 1"}, {"row": 1, "text": "    return 2"}]
    )
    asked = ("judge", outputs, "--data", data, "--metrics", "pass-at-1:seconds=3", "--json")
    code, out, err = run(*asked)
    one_line(code, err, "pass-at-1 runs the generated code", "(--run-generated-code)")
    code, out, err = run(*asked, "--run-generated-code", "--without-isolation")
    assert json.loads(out)["metrics"][0]["value"] == 0.5, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{outputs}", "--metrics", "bleu"], ["--data is missing"]),
        (["{outputs}", "--data", "{data}"], ["--metrics is missing"]),
        (["{outputs}", "--data", "{data}", "--metrics", ","], ["--metrics names none"]),
        (["{outputs}", "--data", "{data}", "--metrics", "bleeu"], ["--metrics", "did you mean bleu?"]),
        (["{outputs}", "--data", "{data}", "--metrics", "accuracy"], ["--metrics", "accuracy reads classes"]),
        (["{outputs}", "--data", "{data}", "--metrics", "exact-match:of=x"], ["--metrics", "of='x'"]),
        (["{outputs}", "--data", "{data}", "--metrics", "bleu", "--references-column", "x"],
         ["--references-column", "no column 'x'", "mr, references"]),
        (["{outputs}", "--data", "{data}", "--metrics", "bleu", "--source-column", "x"],
         ["--source-column", "no column 'x'"]),
        (["{outputs}", "--data", "{data}", "--metrics", "pass-at-1", "--run-generated-code"], ["no column 'prompt'"]),
        (["{outputs}", "--data", "/no/data.jsonl", "--metrics", "bleu"], ["no such file: /no/data.jsonl"]),
        (["/no/outputs", "--data", "{data}", "--metrics", "bleu"], ["no such file: /no/outputs"]),
        (["{data}", "--data", "{data}", "--metrics", "bleu"], ["has no row in output 1"]),
        (["{short}", "--data", "{data}", "--metrics", "bleu"], ["no output for row 3 and 1 more"]),
        (["{twice}", "--data", "{data}", "--metrics", "bleu"], ["row 0 twice"]),
    ],
    ids=lambda value: "-".join(value)[-50:] if isinstance(value, list) else None,
)  # fmt: skip
def test_mistakes(run, e2e, tmp_path, arguments, words):
    names = {
        "outputs": e2e[0],
        "data": e2e[1],
        "short": jsonl(tmp_path / "short.jsonl", [{"row": i, "text": "a"} for i in range(3)]),
        "twice": jsonl(tmp_path / "twice.jsonl", [{"row": 0, "text": "a"}] * 2),
    }
    code, out, err = run("judge", *[argument.format(**names) for argument in arguments], "--json")
    one_line(code, err, *words)
    assert out == ""


def test_judging_opens_no_torch(e2e):
    check = (
        "import sys; from wheretune.cli.app import main\ntry: main(sys.argv[1:])\nexcept SystemExit as stopped: code = "
    )
    check += "stopped.code\nassert not code and not {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)"
    asked = [sys.executable, "-c", check, "judge", e2e[0], "--data", e2e[1], "--metrics", FIVE.replace("meteor,", "")]
    done = subprocess.run(asked, env={"PYTHONPATH": SOURCE}, capture_output=True, text=True)
    assert done.returncode == 0 and "0.3942" in done.stdout, done.stderr


def test_from_standard_input(e2e):
    asked = [sys.executable, "-m", "wheretune", "judge", "-", "--data", e2e[1], "--metrics", "bleu", "--json"]
    given = Path(e2e[0]).read_text()
    done = subprocess.run(asked, env={"PYTHONPATH": SOURCE}, input=given, capture_output=True, text=True)
    assert json.loads(done.stdout)["metrics"][0]["value"] == pytest.approx(GOLDEN["all"]["bleu"]), done.stderr
