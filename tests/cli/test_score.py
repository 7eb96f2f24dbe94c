"""`wheretune score`: several scorers in one pass, options of the choice, what is written and drawn."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from transformers import (
    AutoModelForCausalLM,
)

from helpers.commands import one_line
from helpers.texts import jsonl, rows_of, sentences


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


@pytest.mark.slow
def test_scorers_side_by_side(run, files, tiny_folder, tmp_path):
    common = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--figures", tmp_path, "--compare")
    common += ("--scorer", "depth,cosine-centrality,io-cosine,fisher", "--output", tmp_path / "s.json", "--k", 2)
    common += ("--overwrite",)
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


@pytest.mark.slow
def test_ratio_preset_near_budget_and_auto(run, files, tiny_folder, tmp_path):
    common = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--output", tmp_path / "s.json")
    common = (*common, "--overwrite")
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
    plan = ("plan", tmp_path / "s.json", "--output", tmp_path / "p.json", "--overwrite")
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


@pytest.mark.slow
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
    way_out = "s.json is there already; replace it (--overwrite), or give another --output"
    one_line(*run(*common, "--max-samples", 40)[::2], way_out)
    assert run(*common)[0] == 0  # the same command makes the same scores
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["layers"][2]["score"] == 2.0 and again["layers"][3]["score"] == scores["layers"][3]["score"]
    other = jsonl(tmp_path / "other.jsonl", rows_of(60, 5))
    one_line(*run(*common[:4], other, *common[5:], "--overwrite")[::2], "other settings (data", "another place")
    few = scorer.replace("48", "3")
    one_line(*run(*common[:-3], few, "--output", tmp_path / "few.json")[::2], "nothing to split")


def test_labels_that_make_no_task_are_left_aside_where_none_are_needed(run, tiny_folder, tmp_path):
    one = jsonl(tmp_path / "one.jsonl", [{"text": text, "label": "x"} for text in sentences(9)])
    common = ("score", "--model", tiny_folder("bert"), "--train", one, "--output", tmp_path / "s.json")
    common = (*common, "--overwrite")
    code, _, err = run(*common)
    assert code == 0 and "the labels are left aside" in err and "one class only" in err
    one_line(*run(*common, "--scorer", "fisher")[::2], "one class only")
    empty = jsonl(tmp_path / "empty.jsonl", [{"text": "", "label": "x"}])
    one_line(*run("score", "--model", tiny_folder("bert"), "--train", empty)[::2], "empty text")


@pytest.mark.slow
def test_until_settled(run, tiny_folder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(700))
    common = ("score", "--model", tiny_folder("bert"), "--train", train, "--output", tmp_path / "s.json")
    common = (*common, "--overwrite")
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
