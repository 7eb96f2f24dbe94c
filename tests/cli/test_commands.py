"""The command line as its user runs it, on tiny models: files that come out, and one line for every mistake."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import spearmanr
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from helpers.commands import FAST, SOURCE, one_line
from helpers.models import FAMILIES, WORDS, tiny_model
from helpers.texts import jsonl, rows_of, sentences
from reference.scorers import centrality, cosine, hidden_states
from wheretune import catalog
from wheretune.scoring import shards


def test_version_and_help(run):
    assert run("--version")[1].startswith("wheretune ")
    for command in (
        "score",
        "merge-scores",
        "scorers",
        "selectors",
        "plan",
        "tune",
        "evaluate",
        "predict",
        "merge",
        "compare",
        "cost",
        "demo",
    ):
        code, out, _ = run(command, "--help")
        assert code == 0 and "For example" in out and f"wheretune {command}" in out


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


@pytest.mark.parametrize("family", FAMILIES)
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


def test_several_scorers_in_one_pass_and_one_of_them_in_a_plan(run, files, tiny_folder, tmp_path):
    path = tmp_path / "scores.json"
    code, out, err = run(
        "score", "--model", tiny_folder("bert"), "--train", files["train"], "--scorer",
        "cosine-centrality,cka:estimator=debiased,weight-snr", "--output", path, "--figures", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0, err
    scores = json.loads(out)["scores"]
    assert [one["scorer"]["name"] for one in scores] == ["cosine-centrality", "cka", "weight-snr"]
    assert scores[1]["layers"][0]["score"] is None and "input is the same" in scores[1]["layers"][0]["excluded"]
    assert scores[1]["layers"][1]["excluded"] is None
    assert (tmp_path / "cka-profile.png").is_file() and not (tmp_path / "cka-similarity.png").exists()
    one_line(*run("plan", path, "--output", tmp_path / "plan.json")[::2], "--scorer", "cka")
    code, out, _ = run("plan", path, "--scorer", "cka", "--k", 2, "--output", tmp_path / "plan.json", "--json")
    plan = json.loads(out)
    worst = sorted(scores[1]["layers"][1:], key=lambda layer: layer["score"])[:2]
    assert plan["selector"]["name"] == "lowest" and plan["layers"] == sorted(layer["index"] for layer in worst)
    one_line(*run("plan", path, "--scorer", "depth")[::2], "depth", "it has cosine-centrality", "weight-snr")


@pytest.fixture
def decoder(tiny_folder):
    return tiny_folder("gpt2", kind=AutoModelForCausalLM)


def test_shards_merge_into_what_one_pass_gives(run, decoder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(60))
    names = ",".join(name for name in catalog.every("scorer") if name != "layer-probe")
    common = ("score", "--model", decoder, "--train", train, "--scorer", names, "--batch-size", 8)
    assert run(*common, "--output", tmp_path / "whole.json")[0] == 0
    parts = []
    for number in (3, 1, 2):
        parts.append(tmp_path / f"part-{number}")
        code, out, err = run(*common, "--shard", f"{number}/3", "--output", parts[-1])
        assert code == 0 and f"shard {number} of 3" in out, err
    code, out, err = run("merge-scores", *parts, "--output", tmp_path / "merged.json", "--compare")
    assert code == 0 and "who would choose what" in out, err
    every = [json.loads((tmp_path / name).read_text())["scores"] for name in ("whole.json", "merged.json")]
    for whole, merged in zip(*every, strict=True):
        assert whole["n_samples"] == merged["n_samples"] and whole["scorer"] == merged["scorer"]
        assert whole["tokens"] == merged["tokens"] and (whole["tokens"] is None) == (whole["n_samples"] == 0)
        values = [[layer["score"] for layer in one["layers"]] for one in (whole, merged)]
        assert [value is None for value in values[0]] == [value is None for value in values[1]]
        numbers = [[value for value in row if value is not None] for row in values]
        np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-6, err_msg=whole["scorer"]["name"])
        assert whole["choice"]["layers"] == merged["choice"]["layers"]
        assert whole["deviations"] is None or whole["deviations"]["counts"] == merged["deviations"]["counts"]
    one_line(*run("merge-scores", *parts[:2])[::2], "shard 2 of 3 is missing", "shard 2/3")
    one_line(*run("merge-scores", *parts, parts[0])[::2], "given twice")
    run("score", "--model", decoder, "--train", train, "--shard", "2/3", "--output", tmp_path / "other")
    one_line(*run("merge-scores", *parts[:2], tmp_path / "other")[::2], "different passes (scorers)")
    for option in (("--max-length", 3), ("--seed", 1), ("--verbalizer", "bad=plot,good=movie")):
        assert run(*common, *option, "--shard", "2/3", "--output", tmp_path / "other")[0] == 0
        one_line(*run("merge-scores", *parts[:2], tmp_path / "other")[::2], "(how the data is read)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: [1],
        lambda content: None,
        lambda content: {key: value for key, value in content.items() if key != "n_samples"},
        lambda content: content | {"shard": "x"},
        lambda content: content | {"states": []},
        lambda content: content | {"states": [{"kind": "Path", "parts": {}}]},
        lambda content: content | {"states": [{"kind": "PairSums", "parts": {}}]},
        lambda content: content | {"n_samples": "many"},
        lambda content: content | {"model": content["model"] | {"layers": content["model"]["layers"][:2]}},
        lambda content: content | {"model": content["model"] | {"layers": [["x"]] * 4}},
        lambda content: content | {"scorers": [{"name": "layer-probe", "params": {}}]},
        lambda content: content | {"model": {"name": "x"}},
        lambda content: content | {"format": 99},
    ],
)
def test_a_damaged_shard_is_one_clear_line(run, tiny_folder, tmp_path, damage):
    train, path = jsonl(tmp_path / "t.jsonl", rows_of(20)), tmp_path / "part"
    assert run("score", "--model", tiny_folder("bert"), "--train", train, "--shard", "1/1", "--output", path)[0] == 0
    with safe_open(path, "pt") as file:
        content, tensors = json.loads(file.metadata()[shards.KEY]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {shards.KEY: json.dumps(damage(content))})
    code, _, err = run("merge-scores", path, "--output", tmp_path / "s.json")
    one_line(code, err, str(path))
    assert not (tmp_path / "s.json").exists()


def test_semantic_deviation_before_and_after_tuning(run, files, decoder, tiny_folder, tmp_path):
    common = ("score", "--train", files["train"], "--scorer", "semantic-deviation", "--figures", tmp_path)
    code, out, err = run(*common, "--model", decoder, "--output", tmp_path / "before.json")
    assert code == 0 and "most of the deviation goes at layers" in out and "suffix chooses layer" in out, err
    after = tiny_folder("gpt2", seed=3, kind=AutoModelForCausalLM)
    code, _, err = run(
        *common, "--model", after, "--output", tmp_path / "after.json", "--before", tmp_path / "before.json",
        "--verbalizer", "good=movie,bad=plot",
    )  # fmt: skip
    assert code == 0 and (tmp_path / "deviations.png").stat().st_size > 10_000, err
    written = json.loads((tmp_path / "after.json").read_text())
    assert written["data"]["spec"]["task"]["params"]["verbalizer"] == {"good": "movie", "bad": "plot"}
    assert sum(written["deviations"]["eof_layers"]) == 40
    code, _, err = run(*common, "--model", decoder, "--verbalizer", "good=a movie,bad=a plot")
    one_line(code, err, "'bad' and 'good' begin with the same token", "--verbalizer")
    one_line(*run(*common, "--model", decoder, "--verbalizer", "good")[::2], "class=word")
    headless = tiny_folder("llama")
    one_line(*run(*common, "--model", headless)[::2], "lacks lm_head.weight", "language model")
    target = jsonl(tmp_path / "t.jsonl", [{"text": "the bad", "next": w} for w in ("movie", "plot", "movie")])
    code, _, err = run("score", "--model", decoder, "--train", target, "--scorer", "semantic-deviation:variant=ce",
                       "--target-column", "next", "--output", tmp_path / "t.json")  # fmt: skip
    assert code == 0, err
    both = ("--target-column", "next", "--verbalizer", "a=b")
    one_line(*run("score", "--model", decoder, "--train", target, "--scorer", "semantic-deviation", *both)[::2],
             "--verbalizer and --target-column")  # fmt: skip


def test_scorers_side_by_side(run, files, tiny_folder, tmp_path):
    common = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--figures", tmp_path, "--compare")
    common += ("--scorer", "depth,cosine-centrality,io-cosine,fisher", "--output", tmp_path / "s.json", "--k", 2)
    code, out, err = run(*common)
    assert code == 0 and "who would choose what" in out and (tmp_path / "scorers.png").is_file(), err
    found = json.loads(run(*common, "--json")[1])
    table = found["agreement"]["correlations"]
    depth, io = ([layer["score"] for layer in one["layers"]] for one in (found["scores"][0], found["scores"][2]))
    assert table[0][2] == pytest.approx(spearmanr(depth, [-value for value in io]).statistic)
    assert [row[i] for i, row in enumerate(table)] == pytest.approx([1] * 4)
    assert found["agreement"]["choices"][0]["layers"] == [2, 3]
    lowest = sorted(range(4), key=lambda layer: io[layer])[:2]
    assert found["agreement"]["choices"][2]["layers"] == sorted(lowest)
    again = json.loads(run(*common, "--json", "--near", 0.01, "--scorer", "depth,io-cosine", "--select", "highest")[1])
    assert again["agreement"]["correlations"][0][1] == pytest.approx(table[0][2])  # however it is chosen


def test_ratio_preset_near_budget_and_auto(run, files, tiny_folder, tmp_path):
    common = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "s.json")
    assert run(*common, "--preset", "cka-encoder")[0] == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["scorer"]["params"]["estimator"] == "biased" and scores["choice"]["selector"]["name"] == "lowest"
    assert len(scores["choice"]["layers"]) == 2 and 0 not in scores["choice"]["layers"]  # floor(4 / 2), not the first
    assert scores["choice"]["confidence"]["layers"][0] == 0
    assert run(*common, "--preset", "cka-encoder", "--scorer", "cka:estimator=debiased", "--ratio", 0.25)[0] == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["scorer"]["params"]["estimator"] == "debiased" and len(scores["choice"]["layers"]) == 1
    assert run(*common, "--preset", "cka-encoder", "--k", 1)[0] == 0  # the user's own puts the preset's ratio aside
    assert len(json.loads((tmp_path / "s.json").read_text())["choice"]["layers"]) == 1
    assert run(*common)[0] == 0
    plan = ("plan", tmp_path / "s.json", "--output", tmp_path / "p.json")
    code, out, _ = run(*plan, "--select", "budget", "--budget", 0.6)
    made = json.loads((tmp_path / "p.json").read_text())
    spent = 1 / made["cost"]["expected_speed_up"]  # the budget's number is the plan's
    said = f"{spent:.1%} of full fine-tuning's compute over 3 epochs spent, of 60.0% allowed"
    assert code == 0 and spent <= 0.6 and said in " ".join(out.replace("│", " ").split())
    code, out, _ = run(*plan, "--select", "auto")
    assert code == 0 and "-> " in out and "because" in out
    values = [layer["score"] for layer in json.loads((tmp_path / "s.json").read_text())["layers"]]
    best, reachable = int(np.argmax(values)), [i for i in range(4) if values[i] > min(values)]
    code, out, _ = run(*plan, "--select", "highest", "--k", 1, "--near", 0.9999)
    chosen = json.loads((tmp_path / "p.json").read_text())
    assert chosen["layers"] == [max(best, max(reachable))] and chosen["selector"]["params"]["tolerance"] == 0.9999
    assert (chosen["reason"] is not None) == (chosen["layers"] != [best])


def test_layer_probe_is_resumed_and_sees_the_training_data_only(run, tiny_folder, tmp_path):
    model = tiny_folder("bert", num_hidden_layers=6)
    train = jsonl(tmp_path / "train.jsonl", rows_of(60))
    scorer = "layer-probe:samples=48:epochs=2:learning_rate=1e-3:batch_size=8"
    common = ("score", "--model", model, "--train", train, "--scorer", scorer, "--output", tmp_path / "s.json")
    code, out, err = run(*common)
    assert code == 0 and "tuned alone" in out and "chooses layer" in out, err
    scores = json.loads((tmp_path / "s.json").read_text())
    assert [layer["score"] is None for layer in scores["layers"]] == [True, True, False, False, True, True]
    assert scores["layers"][0]["excluded"] == "outside the middle third" and scores["n_samples"] == 24
    (folder,) = (tmp_path / "s-probe").iterdir()
    found = [json.loads((folder / f"layer-{i}.json").read_text()) for i in (2, 3)]
    assert [one["value"] for one in found] == [scores["layers"][i]["score"] for i in (2, 3)]
    assert found[0]["value"] == sum(found[0]["right"]) / 24 and found[0]["n"] == 24
    (folder / "layer-3.json").unlink()
    marked = found[0] | {"value": 2.0}  # so that it can be told whether it was read or made again
    (folder / "layer-2.json").write_text(json.dumps(marked))
    assert run(*common)[0] == 0
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["layers"][2]["score"] == 2.0 and again["layers"][3]["score"] == scores["layers"][3]["score"]
    other = jsonl(tmp_path / "other.jsonl", rows_of(60, 5))
    one_line(*run(*common[:4], other, *common[5:])[::2], "other settings (data)", "another place")
    few = scorer.replace("48", "3")
    one_line(*run(*common[:-3], few, "--output", tmp_path / "few.json")[::2], "nothing to split")


def test_labels_that_make_no_task_are_left_aside_where_none_are_needed(run, tiny_folder, tmp_path):
    one = jsonl(tmp_path / "one.jsonl", [{"text": text, "label": "x"} for text in sentences(9)])
    common = ("score", "--model", tiny_folder("bert"), "--train", one, "--output", tmp_path / "s.json")
    code, _, err = run(*common)
    assert code == 0 and "the labels are left aside" in err and "one class only" in err
    one_line(*run(*common, "--scorer", "fisher")[::2], "one class only")
    empty = jsonl(tmp_path / "empty.jsonl", [{"text": "", "label": "x"}])
    one_line(*run("score", "--model", tiny_folder("bert"), "--train", empty)[::2], "empty text")


def test_until_settled(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(700))
    common = ("score", "--model", tiny_folder("bert"), "--train", train, "--output", tmp_path / "s.json")
    code, out, err = run(*common, "--until-settled", "--select", "highest", "--k", 1, "--batch-size", 16)
    assert code == 0, err
    settlement = json.loads((tmp_path / "s.json").read_text())["settlement"]
    assert str(settlement["n_samples"]) in out and ("settled after" in out) == settlement["settled"]
    one_line(*run(*common, "--confidence", 0.9)[::2], "--confidence has no effect", "--until-settled")
    one_line(*run(*common, "--until-settled", "--select", "auto")[::2], "auto", "more than pairs")
    one_line(*run(*common, "--until-settled", "--bound", "betting", "--scorer", "cka")[::2], "bounded numbers, and cka")
    one_line(*run(*common, "--until-settled", "--standardise")[::2], "standardise reads all", "--until-settled")
    code, out, err = run(*common, "--until-settled", "--bound", "betting", "--batch-size", 16)
    method = json.loads((tmp_path / "s.json").read_text())["settlement"]["method"]
    assert code == 0 and method == "betting, rigorous for any number of texts"
    one_line(*run(*common, "--until-settled", "--scorer", "cka")[::2], "means over samples")
    one_line(*run(*common, "--until-settled", "--select", "block-median")[::2], "median")
    one_line(*run(*common, "--until-settled", "--scorer", "cka,depth")[::2], "goes with one scorer")
    code, out, _ = run("plan", tmp_path / "s.json", "--k", 1, "--output", tmp_path / "p.json")
    assert code == 0 and "of resamples choose the same layers" in " ".join(out.split())
    assert 0 < json.loads((tmp_path / "p.json").read_text())["confidence"]["selection"] <= 1


def test_scorers_and_selectors_are_listed(run):
    code, out, _ = run("scorers", "--json")
    cards = json.loads(out)
    assert code == 0 and {"cosine-centrality", "cka", "io-cosine"} <= set(cards)
    assert all(card["selector"] in catalog.every("selector") for card in cards.values())
    code, out, _ = run("selectors")
    assert code == 0 and all(name in out for name in catalog.every("selector"))


def compare(run, files, tiny_folder, folder, *more):
    return run(
        "compare", "--model", tiny_folder("bert"), "--train", files["train"], "--validation", files["validation"],
        "--test", files["test"], "--methods", "full,prism,top,head-only", "--k", 2, "--seeds", "0,1", "--epochs", 1,
        "--batch-size", 8, "--learning-rates", "1e-3,1e-4", "--output", folder, *more,
    )  # fmt: skip


def test_compare_runs_what_is_missing_and_no_more(run, files, tiny_folder, tmp_path):
    folder = tmp_path / "compared"
    code, out, err = compare(run, files, tiny_folder, folder, "--json")
    assert code == 0, err
    lines = {line["method"]: line for line in json.loads(out)["methods"]}
    assert list(lines) == ["full", "prism", "top", "head-only"]
    results = sorted(folder.glob("runs/*/*/*/result.json"))
    assert len(results) == 4 * 3  # two rates with the first seed, the better one with the second
    for name, line in lines.items():
        rate = line["learning_rate"]
        tried = {}
        for other in (1e-3, 1e-4):
            saved = json.loads((folder / f"runs/{name}/lr-{other:g}/seed-0/result.json").read_text())
            tried[other] = saved["metrics"]["validation"][0]["value"]
        assert tried[rate] == max(tried.values())
        runs = [json.loads((folder / f"runs/{name}/lr-{rate:g}/seed-{s}/result.json").read_text()) for s in (0, 1)]
        values = [saved["metrics"]["test"][0]["value"] for saved in runs]
        assert line["mean"] == pytest.approx(np.mean(values)) and line["std"] == pytest.approx(np.std(values, ddof=1))
        assert (line["score_seconds"] > 0) == (name == "prism")
        times = [saved["seconds"]["train"] for saved in runs]
        paid = np.mean(times) + line["score_seconds"]
        full = np.mean(
            [
                json.loads(
                    (folder / f"runs/full/lr-{lines['full']['learning_rate']:g}/seed-{s}/result.json").read_text()
                )["seconds"]["train"]
                for s in (0, 1)
            ]
        )
        assert line["speed_up"] == pytest.approx(full / paid)
    assert lines["full"]["trainable_parameters"] > lines["prism"]["trainable_parameters"]
    assert lines["prism"]["trainable_parameters"] == lines["top"]["trainable_parameters"]
    assert (folder / "table.md").read_text().count("\n| ") == 6
    with (folder / "results.csv").open() as opened:
        records = list(csv.DictReader(opened))
    assert {(r["method"], r["seed"]) for r in records} == {(m, s) for m in lines for s in "01"}

    stamps = {path: path.stat().st_mtime_ns for path in results}
    gone = results[0]
    gone.unlink()
    code, again, _ = compare(run, files, tiny_folder, folder, "--json")
    assert code == 0
    fresh = [p for p in folder.glob("runs/*/*/*/result.json") if stamps[p] != p.stat().st_mtime_ns]
    assert fresh == [gone]
    means = {line["method"]: line["mean"] for line in json.loads(again)["methods"]}
    assert means == {name: line["mean"] for name, line in lines.items()}  # the missing run came out the same

    code, _, err = compare(run, files, tiny_folder, folder, "--k", 1)
    assert code == 2 and "other settings (k)" in err

    code, out, _ = compare(run, files, tiny_folder, folder, "--seeds", "0,1,2", "--methods", "prism,lowest", "--json")
    assert code == 0 and [line["seeds"] for line in json.loads(out)["methods"]] == [3, 3]  # grown, not begun again
    assert all(stamps[path] == path.stat().st_mtime_ns for path in results if path != gone)

    jsonl(Path(files["test"]), rows_of(13, 9))
    code, _, err = compare(run, files, tiny_folder, folder)
    assert code == 2 and "other settings (data)" in err


def test_a_run_that_fails_keeps_its_traceback_and_is_no_zero(run, files, tiny_folder, tmp_path, monkeypatch):
    from wheretune import pipeline as room

    original = room.train

    def fail(model, rows, collate, settings, folder, description, companion):
        if "top" in description:
            raise RuntimeError("the disk is on fire")
        return original(model, rows, collate, settings, folder, description, companion)

    monkeypatch.setattr(room, "train", fail)
    folder = tmp_path / "compared"
    code, out, err = compare(run, files, tiny_folder, folder, "--json")
    assert code == 1 and "the disk is on fire" in err
    line = json.loads(out)["methods"][2]
    assert line["method"] == "top" and line["seeds"] == 0 and "mean" not in line
    assert "RuntimeError" in next(folder.glob("runs/top/*/*/failed.txt")).read_text()
    monkeypatch.undo()
    code, out, _ = compare(run, files, tiny_folder, folder)
    assert code == 0 and "failed" not in out
    assert not list(folder.glob("runs/top/*/*/failed.txt"))


def test_config_file_and_the_command_line_has_the_last_word(run, files, tiny_folder, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: {tiny_folder('bert')}\ntrain: {files['train']}\nmax-samples: 7\n"
        f"batch_size: 3\noutput: {tmp_path / 's.json'}\n"
    )
    assert run("score", "--config", config)[0] == 0
    assert json.loads((tmp_path / "s.json").read_text())["n_samples"] == 7
    assert run("score", "--config", config, "--max-samples", 5)[0] == 0
    assert json.loads((tmp_path / "s.json").read_text())["n_samples"] == 5
    config.write_text("modle: x\n")
    code, _, err = run("score", "--config", config)
    assert code == 2 and "'modle'" in err and "'model'" in err
    config.write_text("seeds: [0, 1]\nmethods: [full, top]\nepochs: many\n")
    code, _, err = run("compare", "--config", config)
    assert code == 2 and "'--epochs'" in err


@pytest.fixture
def scored(run, files, tiny_folder, tmp_path):
    run("score", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "scores.json")
    return tmp_path / "scores.json"


@pytest.fixture(scope="session")
def odd_models(tmp_path_factory):
    """A model that shares its layers, and one whose layer 2 puts out an infinite number."""
    folder = tmp_path_factory.mktemp("odd")
    model, tokenizer = tiny_model("bert")
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=8, hidden_size=32, num_hidden_layers=3,
                          num_attention_heads=4, intermediate_size=64)  # fmt: skip
    AlbertModel(config).save_pretrained(folder / "albert")
    with torch.no_grad():
        model.encoder.layer[2].output.dense.bias[3] = float("inf")
    model.save_pretrained(folder / "broken")
    for name in ("albert", "broken"):
        tokenizer.save_pretrained(folder / name)
    return folder / "albert", folder / "broken"


@pytest.mark.parametrize("k", [0, -3, 5])
def test_k_out_of_range(run, scored, tmp_path, k):
    code, _, err = run("plan", scored, "--k", k, "--output", tmp_path / "plan.json")
    one_line(code, err, f"k is {k}", "from 1 to 4")
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--train", "{train}"], ["--model is missing"]),
        (["score", "--model", "{model}"], ["--train is missing"]),
        (["score", "--model", "/no/model", "--train", "{train}"], ["/no/model"]),
        (["score", "--model", "some/model-on-the-hub", "--train", "{train}"], ["some/model-on-the-hub", "hub"]),
        (["score", "--model", "{model}", "--train", "/no/file.csv"], ["no such file: /no/file.csv"]),
        (["score", "--model", "{model}", "--train", "{train}", "--text-column", "x"], ["no column 'x'", "text, label"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cosine-centr"], ["cosine-centrality"]),
        (["score", "--model", "{model}", "--train", "{train}", "--max-length", "0"], ["--max-length is 0"]),
        (["score", "--model", "{model}", "--train", "{train}", "--batch-size", "0"], ["--batch-size is 0"]),
        (["score", "--model", "{model}", "--train", "{train}", "--nonsense"], ["--nonsense", "--help"]),
        (["score", "--model", "{model}", "--train", "{train}", "--seed", "x"], ["'--seed'", "integer"]),
        (["score", "--model", "{albert}", "--train", "{train}"], ["albert_layer_groups"]),
        (["score", "--model", "{broken}", "--train", "{train}"], ["output of layer 2 is not finite", "row"]),
        (["plan", "{scores}", "--select", "block-high"], ["'block-high'", "block-highest"]),
        (["plan", "{scores}", "--select", "explicit", "--layers", "1,9"], ["no layer 9"]),
        (["plan", "{scores}", "--select", "explicit"], ["no layer is named"]),
        (["plan", "{scores}", "--head", "big"], ["'big'"]),
        (["plan", "{train}"], ["not JSON"]),
        (["plan", "/no/scores.json"], ["cannot read"]),
        (["plan", "{scores}", "--model", "{model}"], ["the one or the other"]),
        (["tune", "--output", "{new}", "--train", "{train}"], ["--plan", "is missing"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--epochs", "0"], ["--epochs is 0"]),
        (["tune", "--output", "{taken}", "--model", "{model}", "--train", "{train}"], ["already exists"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{one}"], ["one class only"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{empty}"], ["empty text in rows 2, 3"]),
        (["evaluate", "{taken}", "--data", "{test}"], ["no finished delta"]),
        (["merge", "{taken}", "--output", "{taken}"], ["already exists"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}",
          "--methods", "ful"], ["'ful'", "full"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}",
          "--learning-rates", "1e-3,1e-4"], ["--validation"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{other}"],
         ["'never seen'", "row 1"]),
        (["compare", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--test", "{test}", "--k", "9",
          "--methods", "top"], ["k is 9"]),
        (["nonsense"], ["nonsense"]),
        (["plan", "{scores}", "--select", "random", "--seed", "-1"], ["--seed is -1"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "random:seed=abc"], ["'abc'"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cka,cka"], ["each once"]),
        (["score", "--model", "{model}", "--train", "{half}"], ["half a character", "row 2"]),
        (["score", "--model", "my model", "--train", "{train}"], ["my model"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "semantic-deviation"], ["is an encoder"]),
        (["score", "--model", "{model}", "--train", "{bare}", "--scorer", "gradient-norm"], ["no column 'label'"]),
        (["score", "--model", "{model}", "--train", "{bare}", "--scorer", "layer-probe"], ["no column 'label'"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "fisher:per=text"], ["fisher"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "0/2"], ["--shard is '0/2'", "I/N"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "30/30"], ["has no batch"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "1/2", "--figures", "f"], ["--figures"]),
        (["score", "--model", "{model}", "--train", "{train}", "--compare"], ["several scorers"]),
        (["score", "--model", "{model}", "--train", "{train}", "--preset", "cka-decoder"], ["take cka-encoder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--preset", "ckaencoder"], ["cka-encoder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--ratio", "0.1"], ["--ratio", "0.1 of 4 layers"]),
        (["score", "--model", "{model}", "--train", "{train}", "--ratio", "0.5", "--k", "2"], ["--k and --ratio"]),
        (["score", "--model", "{model}", "--train", "{train}", "--near", "2"], ["--near", "is 2"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "top", "--near", "0.1"], ["top"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "budget", "--budget", "0.1"], ["no layer"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "cka", "--select", "auto"], ["centrality"]),
        (["score", "--model", "{model}", "--train", "{train}", "--before", "x.json"], ["--before has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "io-cosine", "--standardise"], ["io-"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "gradient-norm", "--pooling", "mean"],
         ["--pooling has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--verbalizer", "a=b"], ["--verbalizer has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--budget", "0.3"], ["--budget has no effect"]),
        (["score", "--model", "{model}", "--train", "{train}", "--select", "suffix", "--k", "2"], ["--k has no"]),
        (["score", "--model", "{model}", "--train", "{train}", "--shard", "1/2", "--k", "2"], ["--k has no"]),
        (["score", "--model", "{model}", "--train", "{train}", "--output", "{taken}"], ["is a folder"]),
        (["score", "--model", "{model}", "--train", "{train}", "--seed", "99999999999999999999"], ["4294967295"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:samples=2"], ["samples=2"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:samples=x"], ["samples is"]),
        (["score", "--model", "{model}", "--train", "{train}", "--scorer", "layer-probe:tuner=head-only"],
         ["head-only tunes no layer"]),
        (["plan", "{scores}", "--layers", "1", "--k", "2"], ["--k has no"]),
        (["plan", "{scores}", "--scorer", "cka:estimator=biased"], ["no scores by"]),
        (["merge-scores"], ["a shard is missing"]),
        (["merge-scores", "{train}"], ["is no shard"]),
        (["merge-scores", "/no/shard"], ["/no/shard"]),
        (["tune", "--output", "{new}", "--model", "{model}", "--train", "{train}", "--max-length", "99"], ["99"]),
        (["tune", "--output", "{new}", "--model", "{albert}", "--train", "{train}"], ["albert_layer_groups"]),
        (["tune", "--output", "{new}", "--model", "{broken}", "--train", "{train}"], ["layer 2 is not finite"]),
        (["compare", "--output", "{new}", "--model", "{albert}", "--train", "{train}", "--test", "{test}"], ["albert"]),
        (["compare", "--output", "{new}", "--model", "{broken}", "--train", "{train}", "--test", "{test}"],
         ["layer 2 is not finite"]),
        (["tune", "--output", "{new}", "--plan", "{bent}", "--train", "{train}"], ["a layer is chosen that is not"]),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_mistakes(run, files, scored, tiny_folder, odd_models, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    places = files | {
        "model": tiny_folder("bert"),
        "scores": scored,
        "new": tmp_path / "new",
        "taken": tmp_path / "taken",
        "one": jsonl(tmp_path / "one.jsonl", [{"text": "a", "label": 1}] * 5),
        "empty": jsonl(tmp_path / "empty.jsonl", [{"text": t, "label": i} for i, t in enumerate(["a", "", " \n"])]),
        "other": jsonl(tmp_path / "other.jsonl", [{"text": "a", "label": "never seen"}]),
        "half": jsonl(tmp_path / "half.jsonl", [{"text": "a", "label": 0}, {"text": "\ud83d", "label": 1}]),
        "bare": jsonl(tmp_path / "bare.jsonl", [{"text": text} for text in sentences(9)]),
        "albert": odd_models[0],
        "broken": odd_models[1],
        "bent": tmp_path / "bent.json",
    }
    run("plan", scored, "--output", tmp_path / "bent.json")
    bent = json.loads((tmp_path / "bent.json").read_text()) | {"layers": [99]}
    (tmp_path / "bent.json").write_text(json.dumps(bent))
    code, _, err = run(*[argument.format(**places) for argument in arguments])
    one_line(code, err, *words)
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]


def test_a_plan_for_another_model_and_a_delta_on_another_base(run, files, scored, tiny_folder, tmp_path):
    plan, other = tmp_path / "plan.json", tiny_folder("bert", seed=5)
    run("plan", scored, "--output", plan)
    code, _, err = run("tune", "--plan", plan, "--model", other, "--train", files["train"], "--output", tmp_path / "x")
    one_line(code, err, "the plan was made for")
    assert run("tune", "--plan", plan, "--train", files["train"], "--output", tmp_path / "run", *FAST)[0] == 0
    code, _, err = run("evaluate", tmp_path / "run", "--data", files["test"], "--model", other)
    one_line(code, err, "base model's weights")
    unknown = jsonl(tmp_path / "unknown.jsonl", [{"text": "a", "label": "good"}, {"text": "b", "label": "ugly"}])
    code, _, err = run("evaluate", tmp_path / "run", "--data", unknown)
    one_line(code, err, "'ugly'", "row 2", "bad, good")


def test_a_finished_folder_is_not_lost(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command)[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    one_line(*run(*command)[::2], "already exists", "--overwrite")
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert run(*command, "--resume")[0] == 0
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    one_line(*run(*command, "--resume", "--seed", 9)[::2], "other settings")
    assert run(*command, "--overwrite", "--seed", 9)[0] == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["spec"]["settings"]["seed"] == 9


def test_a_mistake_with_overwrite_costs_nothing(run, files, tiny_folder, tmp_path):
    command = ["tune", "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command, "--model", tiny_folder("bert"))[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    for wrong in (["--model", "/no/model"], ["--model", tiny_folder("bert"), "--k", 9]):
        assert run(*command, "--overwrite", *wrong)[0] == 2
        assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_data_that_changed_is_not_mixed_with_what_it_was(run, files, tiny_folder, tmp_path):
    command = ["tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST]
    assert run(*command)[0] == 0
    jsonl(Path(files["train"]), rows_of(39, 4))
    one_line(*run(*command, "--resume")[::2], "other settings (data)")


def test_options_that_would_have_no_effect_are_refused(run, files, scored, tmp_path):
    plan = tmp_path / "plan.json"
    run("plan", scored, "--output", plan)
    for option in (["--k", 2], ["--head", "concat"], ["--select", "top"], ["--scorer", "cka"]):
        code, _, err = run("tune", "--plan", plan, "--train", files["train"], "--output", tmp_path / "new", *option)
        one_line(code, err, option[0], "no effect")


def test_every_option_can_stand_in_the_config_file(run, files, scored, tmp_path):
    import typer.main

    from wheretune.cli.app import application

    config = tmp_path / "c.yaml"
    for name, command in typer.main.get_command(application()).commands.items():
        options = [o for p in command.params for o in p.opts if o.startswith("--") and o not in ("--config", "--help")]
        if not any("--config" in parameter.opts for parameter in command.params):
            continue
        config.write_text("".join(f"{option[2:]}: 1\n" for option in options) + "no-such-key: 1\n")
        code, _, err = run(name, "--config", config)
        one_line(code, err, "'no-such-key'")
    run("plan", scored, "--output", tmp_path / "plan.json")
    config.write_text(f"plan: {tmp_path / 'plan.json'}\ntrain: {files['train']}\njson: true\nepochs: 1\n")
    code, out, err = run("tune", "--config", config, "--output", tmp_path / "run", "--learning-rate", "1e-3")
    assert code == 0 and json.loads(out)["steps"] == 3, err


def test_a_run_that_diverged_is_an_error_and_no_number(run, files, tiny_folder, tmp_path, monkeypatch):
    from wheretune import pipeline as room

    original = room.train

    def diverge(model, *arguments):
        log = original(model, *arguments)
        with torch.no_grad():
            model.head[1].weight.fill_(float("nan"))
        return log

    monkeypatch.setattr(room, "train", diverge)
    folder = tmp_path / "run"
    code, _, err = run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", folder, *FAST)
    one_line(code, err, "diverged", "learning rate")
    assert not (folder / "result.json").exists() and not (folder / "wheretune.json").exists()


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert code == 2 and "Usage" in out + err and "error:" not in err


@pytest.mark.slow
def test_a_reader_that_has_heard_enough(tmp_path, run, files, tiny_folder):
    run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "run", *FAST)
    many = jsonl(tmp_path / "many.jsonl", rows_of(3000))
    command = (
        f"{sys.executable} -m wheretune predict {tmp_path / 'run'} --data {many} | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[1] == "0" and "Traceback" not in done.stderr


def test_markup_in_a_label_or_a_path_is_shown_as_it_is(run, tiny_folder, tmp_path):
    rows = [{"text": f"{WORDS[i]} good", "label": f"[red]{i % 2}[/red]"} for i in range(8)]
    train = jsonl(tmp_path / "[bold]train.jsonl", rows)
    folder = tmp_path / "[link=x]run"
    code, out, err = run("tune", "--model", tiny_folder("bert"), "--train", train, "--output", folder, *FAST)
    assert code == 0, err
    assert "[link=x]run" in out
    code, out, _ = run("predict", folder, "--data", train)
    assert json.loads(out.splitlines()[0])["label"].startswith("[red]")


@pytest.mark.parametrize("pause", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
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


def test_a_comparison_that_was_killed_runs_what_is_missing(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(200))
    command = [
        "compare", "--model", tiny_folder("bert"), "--train", train, "--test", train, "--methods", "full,prism,top",
        "--k", "2", "--seeds", "0,1", "--epochs", "4", "--output", str(tmp_path / "compared"),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "wheretune", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(tmp_path.glob("compared/runs/*/*/*/result.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compared/runs/*/*/*/result.json")}
    assert 2 <= len(done) < 6 and not (tmp_path / "compared" / "table.md").exists()
    code, out, err = run(*command, "--json")
    assert code == 0, err
    assert [line["seeds"] for line in json.loads(out)["methods"]] == [2, 2, 2]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert not list(tmp_path.rglob(".*partial*")) and not list(tmp_path.rglob("checkpoint-*"))
