"""What wheretune 0.1.0 wrote: scores and tuned models open and give what they gave, the rest is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import wheretune as wt
from wheretune.errors import ConfigError, DeltaError
from wheretune.records import older
from wheretune.records.plan import load_plan
from wheretune.records.runs import load_result
from wheretune.records.scores import load_scores

OLD = Path(__file__).parents[1] / "fixtures" / "first_house"
RUNS = [(kind, tuner) for kind in ("bert", "gpt2") for tuner in ("full", "lora")]


@pytest.mark.parametrize(
    ("name", "selector", "layers"),
    [
        ("cosine-centrality", wt.BlockHighest(2), (0, 1)),
        ("cka", wt.Lowest(1), (1,)),
        ("semantic-deviation", wt.Suffix(), (1,)),
    ],
)
def test_scores_are_read_and_planned(name, selector, layers, tmp_path):
    (scores,) = load_scores(OLD / f"{name}.json")
    content = json.loads((OLD / f"{name}.json").read_text())
    assert scores.scorer.name == name and "pooling" not in scores.scorer.params
    assert [one.score for one in scores.layers] == [one["score"] for one in content["layers"]]
    assert (scores.reading.pooling, scores.reading.last) == ("token", "normed")
    assert scores.data.task.name == "classification" and scores.data.classes == ("bad", "good")
    assert all(layer.parts.maps for layer in scores.model.layers)
    assert scores.settlement is None and scores.choice.layers
    plan = wt.plan(scores, selector)
    assert plan.layers == layers and plan.cost.tokens == scores.tokens
    wt.save(scores, tmp_path / "again.json")  # in today's layout
    assert load_scores(tmp_path / "again.json") == [scores]


def test_plans_and_results_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"is a plan of wheretune 0\.1\.0.*scores of 0\.1\.0 still open"):
        load_plan(OLD / "plan.json")
    with pytest.raises(ConfigError, match=r"is a result of wheretune 0\.1\.0.*tuned model still opens"):
        load_result(OLD / "bert-full" / "result.json")


@pytest.mark.parametrize(("kind", "tuner"), RUNS)
def test_tuned_models_predict_as_they_did(kind, tuner):
    folder = OLD / f"{kind}-{tuner}"
    tuned = wt.open_finetuned(folder, model=str(OLD / kind))
    logits = tuned.logits(tuned.read(str(OLD / "train.jsonl"), "ignored"))
    np.testing.assert_allclose(logits, json.loads((folder / "logits.json").read_text()), rtol=0, atol=1e-6)
    plan = tuned.manifest.plan
    assert tuned.manifest.format == 2 and plan.tuner.name == tuner and len(plan.model) == 2
    assert plan.model.layers[plan.layers[0]].parts.maps and plan.cost.lines


@pytest.mark.parametrize(("kind", "tuner"), RUNS)
def test_tuned_models_merge(kind, tuner, tmp_path):
    tuned = wt.open_finetuned(OLD / f"{kind}-{tuner}", model=str(OLD / kind))
    before = tuned.probe()
    assert wt.merge(tuned, tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(tuned.probe(plain), before, rtol=0, atol=1e-4)


def test_a_delta_of_ones_own_model_loads():
    base = BertForSequenceClassification.from_pretrained(OLD / "bert", num_labels=2)
    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(OLD / "bert", num_labels=2)
    manifest = wt.load_delta(model, OLD / "own")
    assert manifest.plan.layers == (1,) and manifest.data is None
    for name, value in model.bert.encoder.layer[1].state_dict().items():
        torch.testing.assert_close(value, base.bert.encoder.layer[1].state_dict()[name] + 0.5)
    assert torch.equal(model.bert.encoder.layer[0].output.dense.weight, base.bert.encoder.layer[0].output.dense.weight)
    with pytest.raises(DeltaError, match="from a model of your own"):
        wt.open_finetuned(OLD / "own")


def test_another_base_and_a_damaged_manifest_are_refused(tmp_path):
    with pytest.raises(DeltaError, match="base model's weights"):
        wt.open_finetuned(OLD / "bert-full", model=str(OLD / "gpt2"))
    folder = tmp_path / "run"
    shutil.copytree(OLD / "bert-full", folder)
    content = json.loads((folder / "wheretune.json").read_text())
    del content["plan"]["tuner"]
    (folder / "wheretune.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"no Manifest of wheretune 0\.1\.0 .*tuner"):
        wt.open_finetuned(folder, model=str(OLD / "bert"))


def test_what_near_and_how_texts_were_read_became():
    plan = json.loads((OLD / "plan.json").read_text())
    plan["selector"]["params"]["near"] = 0.1
    plan["cost"] = {key: plan["cost"][key] for key in ("trainable_parameters", "total_parameters", "expected_speed_up")}
    layers = [older._parted(layer)[0] for layer in plan["chosen"]] * 2
    today = older.plan(plan, layers)
    assert today["selector"] == {
        "name": "near", "params": {"selector": {"name": "block-highest", "params": {"k": 1}}, "tolerance": 0.1}
    }  # fmt: skip
    assert today["scorer"] == {"name": "cosine-centrality", "params": {}}
    assert (today["cost"]["tokens"], today["cost"]["texts"], today["cost"]["lines"]) == (128.0, 0, [])
