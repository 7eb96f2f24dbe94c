"""A checkpoint with a trained classifier: the first number is its own, or it is said why not."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DistilBertConfig

import wheretune as wt
from helpers import models
from helpers.models import tiny_model
from helpers.texts import jsonl, sentences
from wheretune import catalog, planning, trained_head
from wheretune.data.tokens import encode
from wheretune.delta.merging import merge
from wheretune.delta.opening import open_finetuned
from wheretune.heads.headed import headed
from wheretune.judging import predict
from wheretune.model.opening import open_model
from wheretune.records.base import Spec
from wheretune.records.model import ModelSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import from_texts

FAMILIES = ("gpt2", "llama", "qwen2", "bert", "roberta", "distilbert")
LABELS = [("bad", "good", "hot")[i % 3] for i in range(12)]


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    """Saves a random classifier and gives its folder, itself and its tokenizer."""
    own = lambda v: DistilBertConfig(vocab_size=v, dim=32, n_layers=4, n_heads=4, hidden_dim=64, pad_token_id=0)  # noqa: E731
    monkeypatch.setitem(models.FAMILIES, "distilbert", own)
    monkeypatch.setattr(models, "ENCODERS", ("bert", "roberta", "distilbert"))

    def made(family, names, **changes):
        named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        model, tokenizer = tiny_model(
            family, kind=AutoModelForSequenceClassification, pad_token_id=0, **named, **changes
        )
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model", model, tokenizer

    return made


def begun(folder, data, head="last-token", dtype="fp32"):
    """What `tune` trains, before its first step, and its plan."""
    opened = open_model(ModelSpec(str(folder), dtype=dtype))
    plan = planning.plan(opened.info, wt.Top(k=1), head=catalog.build("head", Spec(head)), data=data.info)
    plan = trained_head.fitted(plan, opened, data.info)
    model = headed(opened.stack, catalog.build("head", plan.head), data, seed=0)
    trained_head.fill(model, plan, opened, data.info)
    return model, plan, opened


def ours(model, opened, data):
    found = predict(model, encode(data, opened.tokenizer, 64), task_of(data.info).collator(opened.tokenizer))
    return torch.tensor(found)


def theirs(model, tokenizer, data):
    """Transformers' own logits, each text alone."""
    with torch.no_grad():
        cut = {"truncation": True, "max_length": 64, "return_tensors": "pt"}
        return torch.cat([model(**tokenizer(text, **cut)).logits for (text,) in data.texts])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("names", "labels"), [
    (("good", "hot", "bad"), LABELS),
    (("LABEL_0", "LABEL_1", "LABEL_2"), [i % 3 for i in range(12)]),
    (("LABEL_0",), [0.5 * i for i in range(12)]),
])  # fmt: skip
def test_before_a_step_the_predictions_are_the_checkpoint_s_own(classifier, family, names, labels, caplog):
    folder, model, tokenizer = classifier(family, names)
    data = from_texts(sentences(12), labels)
    made, plan, opened = begun(folder, data)
    classes = data.info.classes
    order = [names.index(name) if name in names else int(name) for name in classes] or [0]
    torch.testing.assert_close(ours(made, opened, data), theirs(model, tokenizer, data)[:, order], atol=2e-5, rtol=1e-4)
    assert "is kept and trained on" in caplog.text
    assert plan.head.name == ("last-token" if family in ("gpt2", "llama", "qwen2") else "dense")
    on_top = sum(parameter.numel() for parameter in made.head.parameters())
    assert plan.cost.trainable_parameters == on_top + wt.WholeLayers().count(plan.model, plan.layers)


def test_in_half_precision_the_head_is_found_as_well(classifier):
    folder, _, _ = classifier("roberta", ("good", "hot", "bad"))
    _, plan, _ = begun(folder, from_texts(sentences(12), LABELS), dtype="bf16")
    assert plan.head == Spec("dense", {"activation": "tanh", "dropout": 0.1})


@pytest.mark.parametrize(("names", "labels", "head", "why"), [
    (("Good", "Hot", "Bad"), LABELS, "last-token", "the classes of the data are bad, good, hot"),
    (("good", "bad"), LABELS, "last-token", "this is classification into 3 classes"),
    (("LABEL_0", "LABEL_1", "LABEL_2"), LABELS, "last-token", "the classes of the data are bad, good, hot"),
    (("LABEL_0", "LABEL_1", "LABEL_2"), [1 + i % 3 for i in range(12)], "last-token", "data are 1, 2, 3"),
    (("good", "hot", "bad"), [0.5 * i for i in range(12)], "last-token", "this is regression"),
    (("good", "hot", "bad"), LABELS, "concat", "the head concat was asked for"),
])  # fmt: skip
def test_where_classes_do_not_agree_a_new_head_is_trained_and_it_is_said(classifier, names, labels, head, why, caplog):
    folder, _, _ = classifier("bert", names)
    data = from_texts(sentences(12), labels)
    made, plan, opened = begun(folder, data, head)
    assert plan.head.name == head
    assert "is left out, and a new one is trained" in caplog.text and why in caplog.text
    fresh = headed(opened.stack, catalog.build("head", plan.head), data, seed=0).head
    assert all(torch.equal(a, b) for a, b in zip(made.head.parameters(), fresh.parameters(), strict=True))


def test_a_head_for_several_labels_at_once_is_not_one_of_classes(classifier, caplog):
    folder, _, _ = classifier("bert", ("good", "hot", "bad"), problem_type="multi_label_classification")
    assert begun(folder, from_texts(sentences(12), LABELS))[1].head.name == "last-token"
    assert "it was trained for multi_label_classification" in caplog.text


def test_a_head_whose_weights_are_missing_is_none(classifier):
    folder, model, _ = classifier("bert", ("good", "hot", "bad"))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    model.save_pretrained(folder, state_dict=state)
    assert open_model(ModelSpec(str(folder))).own_head is None


def test_a_headless_checkpoint_has_none(tiny_folder):
    assert open_model(ModelSpec(tiny_folder("bert"))).own_head is None


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta", "distilbert"])
def test_what_was_trained_on_merges_into_the_same_class(classifier, family, tmp_path):
    folder, model, _ = classifier(family, ("good", "hot", "bad"))
    data = from_texts(sentences(12), LABELS)
    made, plan, opened = begun(folder, data)
    wt.save_delta(nudged(made, plan), tmp_path / "run", data=data.info, max_length=64)
    again = open_finetuned(tmp_path / "run")
    assert merge(again, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert type(merged) is type(model) and merged.config.id2label == {0: "bad", 1: "good", 2: "hot"}
    torch.testing.assert_close(theirs(merged, again.tokenizer, data), ours(made, opened, data), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_linear_head_that_was_merged_is_one_again(classifier, tmp_path, family):
    folder, _, _ = classifier(family, ("x", "y", "z"))
    data = from_texts(sentences(12), LABELS)
    made, plan, opened = begun(folder, data)
    assert plan.head.name == "last-token"  # a new one
    wt.save_delta(nudged(made, plan), tmp_path / "run", data=data.info, max_length=64)
    assert merge(open_finetuned(tmp_path / "run"), tmp_path / "merged")
    again, plan, opened = begun(tmp_path / "merged", data)
    assert plan.head.name == "last-token"
    torch.testing.assert_close(again.head[1].weight, made.head[1].weight)
    torch.testing.assert_close(ours(again, opened, data), ours(made, opened, data), atol=1e-4, rtol=1e-4)


def nudged(model, plan):
    """A model whose chosen layers and head are a little different, as if they had been trained."""
    tuned = wt.apply(model, plan)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 0.01
    return tuned


def test_the_command_line_says_it_in_one_line(classifier, run, files, tmp_path):
    folder, _, _ = classifier("bert", ("good", "bad"))
    code, _, err = run("tune", "--model", folder, "--train", files["train"], "--k", 1, "--epochs", 1,
                       "--output", tmp_path / "run")  # fmt: skip
    assert code == 0 and err.count("own head") == 1
    assert "(BertForSequenceClassification, 2 outputs: good, bad) is kept and trained on: its classes are those" in err


def test_a_plan_says_the_head_that_is_then_tuned(classifier, run, files, tmp_path):
    folder, _, _ = classifier("bert", ("good", "bad"))
    common = ("--model", folder, "--train", files["train"], "--k", 1, "--json", "--output")
    code, out, err = run("plan", *common, tmp_path / "plan.json")
    assert code == 0 and "is kept and trained on" in err, err
    plan = json.loads(out)
    assert plan["head"]["name"] == "dense"
    tuned = json.loads(run("tune", *common, tmp_path / "run", "--epochs", 1)[1])["plan"]
    assert (tuned["head"], tuned["cost"]) == (plan["head"], plan["cost"])
    bare = jsonl(tmp_path / "bare.jsonl", [{"text": text} for text in sentences(9)])
    code, out, err = run("plan", *common[:3], bare, *common[4:], tmp_path / "bare.json")
    assert code == 0 and json.loads(out)["head"]["name"] == "last-token", err
