"""Several labels per text, all the way round: score, tune, evaluate, predict, compare and merge."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.commands import FAST, one_line
from helpers.often import often
from helpers.texts import jsonl, sentences
from wheretune import catalog
from wheretune.judging import read_predictions


def rows(n, seed=0):
    """Texts whose labels can be learned: which words are in them."""
    found = []
    for i, text in enumerate(sentences(n, seed)):
        labels = [name for name, every in (("good", 2), ("bad", 3)) if i % every == 0]
        found.append({"text": " ".join([text, *labels]), "label": labels})
    return found


@pytest.fixture
def several(tmp_path):
    parts = {"train": rows(48), "validation": rows(24, 1), "test": rows(18, 2)}
    return {name: jsonl(tmp_path / f"several-{name}.jsonl", part) for name, part in parts.items()}


def tuned(run, several, model, folder, *more):
    code, _, err = run(
        "tune", "--model", model, "--train", several["train"], "--validation", several["validation"],
        "--test", several["test"], "--output", folder, "--k", 2, *FAST, *more,
    )  # fmt: skip
    assert code == 0, err
    return json.loads((folder / "result.json").read_text()), err


@pytest.mark.parametrize("family", often(["bert", "llama"], ["bert"]))
def test_all_the_way_round(run, several, tiny_folder, tmp_path, family):
    folder = tmp_path / "run"
    result, err = tuned(run, several, tiny_folder(family), folder, "--epochs", 6, "--metric", "label-log-loss")
    assert "any of 2 labels (task multi-label)" in err
    assert [one["name"] for one in result["metrics"]["test"]] == [
        "f1-micro",
        "f1-macro",
        "subset-accuracy",
        "label-log-loss",
    ]
    task = json.loads((folder / "wheretune.json").read_text())["data"]["task"]
    thresholds = task["params"]["thresholds"]
    assert task["name"] == "multi-label" and len(thresholds) == 2
    assert result["data"]["test"]["task"] == task == result["data"]["validation"]["task"]

    code, out, err = run("evaluate", folder, "--data", several["test"], "--output", tmp_path / "e.json", "--json")
    assert code == 0 and json.loads(out)["metrics"] == result["metrics"]["test"][:3], err
    kept = read_predictions(folder / "predictions-test.jsonl")
    assert kept == read_predictions(tmp_path / "predictions-e.jsonl")
    assert [list(one.truth) for one in kept] == [sorted(row["label"]) for row in rows(18, 2)]

    code, out, err = run("predict", folder, "--data", several["test"])
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(answers) == 18
    for answer, one in zip(answers, kept, strict=True):
        shares = list(answer["probabilities"].values())
        assert answer["labels"] == list(one.predicted)
        assert answer["labels"] == [n for n, s, t in zip(("bad", "good"), shares, thresholds, strict=True) if s >= t]

    code, out, err = run("merge", folder, "--output", tmp_path / "merged")
    assert code == 0 and "thresholds" in out, err
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert merged.config.problem_type == "multi_label_classification" and merged.config.id2label == {
        0: "bad",
        1: "good",
    }
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        cut = {"truncation": True, "max_length": 64, "return_tensors": "pt"}
        theirs = torch.cat([merged(**tokenizer(row["text"], **cut)).logits for row in rows(18, 2)]).sigmoid()
    ours = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(theirs, ours.float(), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_without_validation_the_threshold_is_a_half(run, several, tiny_folder, tmp_path):
    code, _, err = run("tune", "--model", tiny_folder("bert"), "--train", several["train"], "--test", several["test"],
                       "--output", tmp_path / "run", "--k", 1, *FAST)  # fmt: skip
    assert code == 0, err
    data = json.loads((tmp_path / "run" / "wheretune.json").read_text())["data"]
    assert data["task"] == {"name": "multi-label", "params": {}}


@pytest.mark.slow
def test_a_merged_head_is_kept_when_it_is_trained_on(run, several, tiny_folder, tmp_path):
    tuned(run, several, tiny_folder("bert"), tmp_path / "run")
    assert run("merge", tmp_path / "run", "--output", tmp_path / "merged")[0] == 0
    _, err = tuned(run, several, tmp_path / "merged", tmp_path / "again")
    assert "own head" in err and "is kept and trained on: its classes are those of the data" in err


@pytest.mark.slow
def test_every_scorer(run, several, decoder, tmp_path):
    names = [name for name in catalog.names("scorer") if name not in ("semantic-deviation", "layer-probe")]
    code, _, err = run("score", "--model", decoder, "--train", several["train"], "--scorer", ",".join(names),
                       "--output", tmp_path / "s.json")  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert len(found) == len(names)
    assert all(np.isfinite([layer["score"] for layer in one["layers"] if not layer["excluded"]]).all() for one in found)
    code, _, err = run("score", "--model", decoder, "--train", several["train"], "--scorer", "semantic-deviation",
                       "--output", tmp_path / "t.json")  # fmt: skip
    one_line(code, err, "several labels per row", "(--target-column)")


def test_the_layer_probe(run, several, tiny_folder, tmp_path):
    code, _, err = run("score", "--model", tiny_folder("bert"), "--train", several["train"], "--scorer",
                       "layer-probe:samples=24", "--output", tmp_path / "p.json")  # fmt: skip
    assert code == 0, err


@pytest.mark.slow
def test_a_table_with_a_separator_and_labels_that_are_new(run, tiny_folder, tmp_path):
    def table(name, made):
        lines = [f'"{row["text"]}",{";".join(row["label"])}' for row in made]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]) + "\n")
        return tmp_path / name

    train, folder = table("train.csv", rows(32)), tmp_path / "run"
    common = ("tune", "--model", tiny_folder("bert"), "--output", folder, "--k", 1, *FAST)
    one_line(*run(*common, "--train", train, "--task", "multi-label")[::2], "a string where a list of labels belongs")
    code, _, err = run(*common, "--train", train, "--label-separator", ";")
    assert code == 0, err
    later = table("later.csv", [*rows(4, 1), {"text": "a plot", "label": ["good", "hot"]}, {"text": "", "label": []}])
    code, out, err = run("evaluate", folder, "--data", later, "--json")
    assert code == 0 and "1 of 5 rows are of a class that the model was not trained on (hot)" in err
    found = json.loads(out)
    assert found["unknown_classes"] == 1 and found["not_counted"] == 1 and {m["n"] for m in found["metrics"]} == {5}
    code, out, err = run("predict", folder, "--data", later)
    assert json.loads(out.splitlines()[-1]) == {"labels": None, "probabilities": None, "reason": "empty text"}


@pytest.mark.slow
def test_methods_are_compared(run, several, tiny_folder, tmp_path):
    code, _, err = run(
        "compare", "--model", tiny_folder("bert"), "--train", several["train"], "--validation", several["validation"],
        "--test", several["test"], "--output", tmp_path / "c", "--methods", "full,top,head-only", "--seeds", "0,1",
        "--k", 1, "--epochs", 1, "--learning-rates", "1e-3",
    )  # fmt: skip
    assert code == 0 and "f1-micro" in (tmp_path / "c" / "table.md").read_text(), err


@pytest.mark.slow
def test_the_best_weights_by_loss(run, several, tiny_folder, tmp_path):
    result, _ = tuned(run, several, tiny_folder("bert"), tmp_path / "run", "--eval-strategy", "epoch", "--epochs", 2,
                      "--metric-for-best-model", "loss")  # fmt: skip
    assert "label-log-loss" in result["saved"]["weights"]
