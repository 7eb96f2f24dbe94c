"""The card of a tuned model: what a reader sees, and what the hub reads."""

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

import wheretune as wt
from helpers import made_up
from helpers.commands import FAST
from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune import planning
from wheretune.delta.card import licence_of, model_card
from wheretune.records.data import DataInfo, DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import Metric


def test_the_card_says_which_layers_why_how_sure_and_at_what_cost_and_escapes_names():
    model, tokenizer = tiny_model("bert")
    scores = wt.score(
        model, tokenizer, wt.from_texts(sentences(12), ["<b>|no|</b>", "`yes`"] * 6), wt.CosineCentrality()
    )
    plan = wt.plan(scores, wt.Highest(2), tuner=wt.LoRA(r=2))
    card = model_card(plan, scores.data)
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "wheretune"
    assert f"| {', '.join(map(str, plan.layers))} of 4, counted from 0" in card
    assert "highest(k=2) from the scores of cosine-centrality" in card and "of resamples choose the same" in card
    assert f"| {plan.cost.trainable_parameters} of {plan.cost.total_parameters} parameters" in card
    assert "<b>" not in card and r"&lt;b&gt;\|no\|&lt;/b&gt;" in card and r"\`yes\`" in card
    for layer in plan.layers:
        assert f"| {layer} | encoder.layer.{layer} | {scores.values[layer]:.4f} |" in card
    assert "no means over samples" in model_card(replace(plan, confidence=None), None)


def data_of(source):
    return DataInfo(DataSpec(source), 40, wt.Spec("classification"), ("bad", "good"), "h" * 64)


def test_the_hub_finds_metrics_with_their_n_data_and_base_model():
    plan = planning.plan(replace(made_up.model_info(), spec=ModelSpec("google/bert")), wt.Top(2), tuner=wt.LoRA(r=2))
    metrics = (Metric("accuracy", 0.875, 40), Metric("matthews", 0.5, 40))
    judged = {
        "test": (data_of("/home/me/my: test.jsonl"), metrics),
        "validation": (data_of("sst2:en:dev"), metrics[:1]),
    }
    card = ModelCard(model_card(plan, data_of("sst2:en:train"), judged))
    front = card.data
    assert (front.base_model, front.datasets, front.library_name) == ("google/bert", ["sst2"], "wheretune")
    assert front.pipeline_tag == "text-classification" and front.license is None
    assert front.metrics == ["accuracy", "matthews_correlation"]
    found = [
        (r.dataset_type, r.dataset_split, r.metric_name, r.metric_value, r.metric_args) for r in front.eval_results
    ]
    assert found == [
        ("my: test.jsonl", "test", "accuracy", 0.875, {"n": 40}),
        ("my: test.jsonl", "test", "matthews", 0.5, {"n": 40}),
        ("sst2", "validation", "accuracy", 0.875, {"n": 40}),
    ]
    assert "accuracy 0.8750 (n = 40)" in card.text and "/home/me" not in card.content
    assert ModelCard(model_card(plan, None)).data.eval_results is None


@pytest.mark.parametrize(
    ("head", "known"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\nlicense: other\nlicense_name: gemma\nlicense_link: https://x/y\n---\n",
         {"license": "other", "license_name": "gemma", "license_link": "https://x/y"}),
        ("---\nmodel-index: wrong\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\nlicense: [a, b]\n---\n", {}), ("---\nlanguage: en\n---\n", {}), ("---\na: {\n---\n", {}), ("none", {}),
    ],
)  # fmt: skip
def test_the_licence_is_the_base_model_s_where_its_card_is_here(tmp_path, head, known):
    (tmp_path / "README.md").write_text(head + "# A model")
    assert licence_of(ModelSpec(str(tmp_path))) == known
    assert licence_of(ModelSpec(str(tmp_path / "none"))) == licence_of(ModelSpec("nobody/nothing")) == {}


def test_a_run_s_card_holds_what_its_result_holds(run, files, tiny_folder, tmp_path):
    code, _, err = run(
        "tune", "--model", tiny_folder("bert"), "--train", files["train"], "--test", files["test"], "--output",
        tmp_path / "run", *FAST,
    )  # fmt: skip
    assert code == 0, err
    card = ModelCard.load(tmp_path / "run" / "README.md")
    (metric, *_) = wt.load(wt.RunResult, tmp_path / "run" / "result.json").metrics["test"]
    assert card.data.eval_results[0].metric_value == metric.value and str(metric) in card.text.replace("\\", "")
    opened = wt.open_finetuned(tmp_path / "run")  # the card is no part of what a delta's hash is of
    assert f"tuned on {opened.data.rows} rows" in opened._repr_html_()
