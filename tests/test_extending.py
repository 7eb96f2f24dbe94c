"""docs/extending.md as it stands: another package adds one thing on every axis, and all is used by name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wheretune as wt
from helpers.commands import SOURCE
from helpers.models import tiny_model
from helpers.texts import jsonl, sentences
from reference.scorers import hidden_states, representative
from wheretune import catalog

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
POINTS = re.findall(r'^\[project\.entry-points\."wheretune\.(\w+)s"\]\n([\w-]+) = "(.*?)"', PAGE, flags=re.M)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder in which the page's package is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "their_package").mkdir()
    (folder / "their_package" / "__init__.py").touch()
    for name, body in re.findall(r"^```python\n# (their_package/\w+\.py)\n(.*?)^```", PAGE, flags=re.M | re.S):
        (folder / name).write_text(body)
    info = folder / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "".join(f"[wheretune.{axis}s]\n{name} = {where}\n" for axis, name, where in POINTS)
    )
    return folder


@pytest.fixture(scope="module")
def command(package):
    """Runs a command in a process of its own, where the package is installed."""
    paths = os.pathsep.join([str(package), SOURCE])

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "wheretune", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    rows = [{"text": text, "label": 1 + place % 5} for place, text in enumerate(sentences(40))]
    return jsonl(tmp_path_factory.mktemp("data") / "stars.jsonl", rows)


def test_one_thing_of_every_kind_is_on_the_page():
    assert {axis for axis, _, _ in POINTS} == set(catalog.ROWS) - {"recipe"}


def test_lists_show_them(command):
    for axis, name, _ in POINTS:
        if axis not in ("export", "executor"):
            assert name in json.loads(command(f"{axis}s", "--json"))


def test_scored_planned_tuned_and_exported_by_name(command, stars, tiny_folder, tmp_path):
    model = tiny_folder("bert")
    given = re.search(r"^wheretune tune (.*?)^wheretune", PAGE, flags=re.M | re.S)[1].replace("\\\n", " ").split()
    theirs = given[given.index("--task") :]
    out = tmp_path / "run"
    fast = ("--epochs", 2, "--learning-rate", "1e-2", "--batch-size", 8)
    command("tune", "--model", model, "--train", stars, "--validation", stars, "--output", out, *theirs, *fast)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["layers"] == [1, 3] and plan["schedule"] == {"name": "warm-start", "params": {"steps": 2}}
    result = json.loads((out / "result.json").read_text())
    assert [metric["name"] for metric in result["metrics"]["validation"]] == ["mse", "within-one"]
    assert result["trainable_parameters"] == plan["cost"]["trainable_parameters"] == 2 * 2 * 32 + 33 * 16 + 17
    first = json.loads((out / "predictions-validation.jsonl").read_text().splitlines()[0])
    assert first["truth"] == 1.0
    again = command("plan", out / "scores.json", "--select", "every-other", "--output", tmp_path / "p.json", "--json")
    assert json.loads(again)["layers"] == [0, 2]
    assert command("export", tmp_path / "p.json", "--to", "names") == "encoder.layer.0\nencoder.layer.2\n"
    shown = json.loads(command("evaluate", out, "--data", stars, "--json"))
    assert shown["metrics"][0]["name"] == "mse"


@pytest.mark.slow
def test_compared_by_name(command, stars, tiny_folder, tmp_path):
    given = re.search(r"^wheretune compare (.*?)^wheretune", PAGE, flags=re.M | re.S)[1].replace("\\\n", " ").split()
    theirs = given[given.index("--task") :]
    out = tmp_path / "compared"
    command(
        "compare", "--model", tiny_folder("bert"), "--train", stars, "--test", stars, "--output", out, *theirs,
        "--seeds", "0", "--epochs", 1, "--batch-size", 8,
    )  # fmt: skip
    rows = (out / "results.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"full", "state-norm+every-other+norms"}


def test_the_scorer_computes_its_formula(package, monkeypatch):
    monkeypatch.syspath_prepend(package)
    from their_package.scorer import StateNorm

    model, tokenizer = tiny_model("gpt2")
    texts = sentences(9)
    found = wt.score(model, tokenizer, wt.from_texts(texts), StateNorm(), batch_size=4)
    every = [representative(hidden_states(model, tokenizer, (text,), 64), True)[1:] for text in texts]
    np.testing.assert_allclose(found.values, np.linalg.norm(every, axis=2).mean(0), rtol=1e-5)
