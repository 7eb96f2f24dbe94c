"""`wheretune tune`, and what its folder is good for: evaluate, predict, merge."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from helpers.commands import FAST, SOURCE, one_line
from helpers.models import FAMILIES, WORDS
from helpers.often import often
from helpers.texts import jsonl, rows_of
from reference.scorers import centrality, cosine, hidden_states


def test_score_plan_tune_evaluate_predict_merge(run, files, tiny_folder, tmp_path):
    model = tiny_folder("bert")
    code, out, _ = run(
        "score", "--model", model, "--train", files["train"], "--output", tmp_path / "scores.json",
        "--figures", tmp_path / "figures", "--json",
    )  # fmt: skip
    assert code == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert json.loads(out) == scores
    assert scores["scorer"]["name"] == "cosine-centrality" and scores["n_samples"] == 40
    assert [layer["index"] for layer in scores["layers"]] == [0, 1, 2, 3]
    opened, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    every = [hidden_states(opened, tokenizer, (row["text"],), 64) for row in rows_of(40)]
    values, stds, matrix = centrality(every, False, cosine)
    np.testing.assert_allclose([layer["score"] for layer in scores["layers"]], values, atol=1e-5)
    np.testing.assert_allclose([layer["std"] for layer in scores["layers"]], stds, atol=1e-5)
    np.testing.assert_allclose(scores["similarity"], matrix, atol=1e-5)
    for name in ("profile.png", "similarity.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")

    code, out, _ = run("plan", tmp_path / "scores.json", "--k", 2, "--output", tmp_path / "plan.json", "--json")
    plan = json.loads(out)
    best = [int(np.argmax(values[:2])), 2 + int(np.argmax(values[2:]))]
    assert code == 0 and plan["layers"] == best and plan["tuner"]["name"] == "full"
    assert plan["model"]["hash"] == scores["model"]["hash"] and plan["scores_digest"]

    run_folder = tmp_path / "run"
    code, _, err = run(
        "tune", "--plan", tmp_path / "plan.json", "--train", files["train"], "--validation", files["validation"],
        "--output", run_folder, *FAST,
    )  # fmt: skip
    assert code == 0, err
    assert {path.name for path in run_folder.iterdir()} == {
        "plan.json", "run.json", "delta.safetensors", "README.md", "wheretune.json", "result.json",
        "predictions-validation.jsonl",
    }  # fmt: skip
    result = json.loads((run_folder / "result.json").read_text())
    assert result["trainable_parameters"] == plan["cost"]["trainable_parameters"]
    assert result["metrics"]["validation"][0]["n"] == 12

    code, out, _ = run("evaluate", run_folder, "--data", files["validation"], "--json")
    assert code == 0 and json.loads(out)["metrics"] == result["metrics"]["validation"]

    unlabelled = jsonl(tmp_path / "new.jsonl", [{"text": row["text"]} for row in rows_of(9, 5)])
    code, out, _ = run("predict", run_folder, "--data", unlabelled)
    predicted = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(predicted) == 9
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-6 for row in predicted)
    assert all(row["label"] == max(row["probabilities"], key=row["probabilities"].get) for row in predicted)

    merged = tmp_path / "merged"
    code, out, _ = run("merge", run_folder, "--output", merged, "--json")
    assert code == 0 and json.loads(out)["head_included"]
    plain, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(merged),
        AutoTokenizer.from_pretrained(merged),
    )
    for row, ours in zip(rows_of(9, 5), predicted, strict=True):
        with torch.no_grad():
            shares = plain.eval()(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0]
        theirs = {plain.config.id2label[i]: float(share) for i, share in enumerate(shares)}
        assert theirs == pytest.approx(ours["probabilities"], abs=1e-5)


@pytest.mark.parametrize("family", often(FAMILIES, ["bert", "llama"]))
def test_one_line_tunes_and_every_family_merges_into_its_own_classifier(run, files, tiny_folder, tmp_path, family):
    folder, merged = tmp_path / "run", tmp_path / "merged"
    code, out, err = run("tune", "--model", tiny_folder(family), "--train", files["train"], "--output", folder, *FAST)
    assert code == 0, err
    assert len(json.loads((folder / "plan.json").read_text())["layers"]) == 1  # a quarter of four
    assert "●" in out
    code, out, _ = run("merge", folder, "--output", merged)
    assert code == 0 and "AutoModelForSequenceClassification" in out
    _, out, _ = run("predict", folder, "--data", files["test"])
    ours = [json.loads(line)["probabilities"] for line in out.splitlines()]
    plain, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(merged).eval(),
        AutoTokenizer.from_pretrained(merged),
    )
    texts = [row["text"] for row in rows_of(14, 2)]
    with torch.no_grad():
        shares = plain(
            **tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        ).logits.softmax(-1)
    for mine, theirs in zip(ours, shares.tolist(), strict=True):
        assert list(mine.values()) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_concat_head_and_regression_of_pairs(run, tmp_path, tiny_folder):
    train = jsonl(tmp_path / "train.jsonl", rows_of(30, regression=True, pair=True))
    test = jsonl(tmp_path / "test.jsonl", rows_of(12, 1, regression=True, pair=True))
    folder = tmp_path / "run"
    code, _, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", train, "--pair-column", "other", "--head", "concat",
        "--output", folder, *FAST,
    )  # fmt: skip
    assert code == 0, err
    code, out, _ = run("evaluate", folder, "--data", test, "--json")
    assert code == 0 and json.loads(out)["metrics"][0]["name"] == "pearson"
    code, out, _ = run("predict", folder, "--data", test)
    assert code == 0 and set(json.loads(out.splitlines()[0])) == {"value"}
    code, out, _ = run("merge", folder, "--output", tmp_path / "merged")
    assert code == 0 and "without its head" in out
    assert (tmp_path / "merged" / "head.safetensors").is_file()
    AutoModel.from_pretrained(tmp_path / "merged")


def test_markup_in_a_label_or_a_path_is_shown_as_it_is(run, tiny_folder, tmp_path):
    rows = [{"text": f"{WORDS[i]} good", "label": f"[red]{i % 2}[/red]"} for i in range(8)]
    train = jsonl(tmp_path / "[bold]train.jsonl", rows)
    folder = tmp_path / "[link=x]run"
    code, out, err = run("tune", "--model", tiny_folder("bert"), "--train", train, "--output", folder, *FAST)
    assert code == 0, err
    assert "[link=x]run" in out
    code, out, _ = run("predict", folder, "--data", train)
    assert json.loads(out.splitlines()[0])["label"].startswith("[red]")


def test_a_run_that_diverged_is_an_error_and_no_number(run, files, tiny_folder, tmp_path, monkeypatch):
    from wheretune.training import loop as room

    original = room.train

    def diverge(model, *arguments, **more):
        log = original(model, *arguments, **more)
        with torch.no_grad():
            model.head[1].weight.fill_(float("nan"))
        return log

    monkeypatch.setattr(room, "train", diverge)
    folder = tmp_path / "run"
    code, _, err = run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", folder, *FAST)
    one_line(code, err, "diverged", "learning rate")
    assert not (folder / "result.json").exists() and not (folder / "wheretune.json").exists()


@pytest.mark.slow
def test_a_reader_that_has_heard_enough(tmp_path, run, files, tiny_folder):
    run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST)
    many = jsonl(tmp_path / "many.jsonl", rows_of(3000))
    command = (
        f"{sys.executable} -m wheretune predict {tmp_path / 'run'} --data {many} | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": SOURCE}
    )
    assert done.stdout.splitlines()[1] == "0" and "Traceback" not in done.stderr


def test_what_is_left_open_is_said_in_one_line_and_what_is_given_is_used(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--epochs", 1, "--output"]
    code, out, err = run(*command, tmp_path / "auto")
    assert code == 0, err
    taken = json.loads((tmp_path / "auto" / "result.json").read_text())["learning_rate"]
    assert f"1 of 4 layers: a quarter, rounded up; learning rate {taken:g}: what suits full on 1 of 4 layers" in out
    code, out, err = run(*command, tmp_path / "given", "--learning-rate", "1e-3", "--k", 2)
    result = json.loads((tmp_path / "given" / "result.json").read_text())
    assert code == 0 and "what suits" not in out, err
    assert result["learning_rate"] == 1e-3 and len(result["plan"]["layers"]) == 2
    code, out, err = run(*command, tmp_path / "asked", "--learning-rate", "auto", "--k", "auto")
    assert code == 0 and "1 of 4 layers: a quarter" in out, err
    one_line(*run(*command, tmp_path / "no", "--learning-rate", "fast")[::2], "--learning-rate is 'fast'")
    one_line(*run(*command, tmp_path / "no", "--k", "many")[::2], "--k is 'many'")
