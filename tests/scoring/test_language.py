"""Language models' tasks are scored at the places that predict, and by their own loss."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers as hf

import wheretune as wt
from helpers.language import chats, kept
from helpers.scoring import score_all
from reference.scorers import cosine
from wheretune import catalog
from wheretune.data.examples import NOT_LEARNED
from wheretune.errors import ConfigError, ModelError
from wheretune.model.finding import find_layers
from wheretune.model.opening import load_tokenizer
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.learned import last_learned, start_of_answer
from wheretune.tasks.loading import load_data


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """(model, tokenizer, data of every task, by name)."""
    folder = tmp_path_factory.mktemp("language")
    base = kept(folder / "base")
    rows = [
        {"text": "it is " * (i % 4 + 1), "label": ("good", "bad")[i % 2], "source": "how? " * (i % 3 + 1),
         "target": f"so, {i}"} for i in range(12)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = dict.fromkeys(("next-token", "generation", "text"), str(folder / "rows.jsonl"))
    sources["chat"] = chats(folder / "chats.jsonl", 12)
    data = {name: load_data(DataSpec(source, Spec(name), max_length=60)) for name, source in sources.items()}
    return hf.AutoModelForCausalLM.from_pretrained(base).eval(), load_tokenizer(base), data


TASKS = ("chat", "generation", "next-token", "text")


def states_of(model, row):
    with torch.no_grad():
        ids = torch.tensor([row["input_ids"]])
        return np.stack([s[0].double().numpy() for s in model(input_ids=ids, output_hidden_states=True).hidden_states])


def place_of(name, row):
    """Where a row is read, told from its labels in another way than the tasks tell it."""
    learned = np.array(row["labels"]) != NOT_LEARNED
    if name == "text":
        return np.flatnonzero(learned)[-1] - 1
    starts = np.flatnonzero(learned & ~np.r_[False, learned[:-1]])
    return starts[-1] - 1


@pytest.mark.parametrize("pooling", ["token", "targets"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TASKS)
def test_what_is_read_of_a_row(read, name, side, pooling):
    model, tokenizer, data = read
    tokenizer.padding_side = side
    try:
        found = score_all(model, tokenizer, data[name], [wt.CosineCentrality()], batch_size=5, pooling=pooling)[0]
    finally:
        tokenizer.padding_side = "right"
    rows = task_of(data[name].info).encode(data[name], tokenizer, 60)
    every = []
    for row in rows:
        states = states_of(model, row)[1:]
        predicting = np.flatnonzero(np.array(row["labels"][1:]) != NOT_LEARNED)
        tokens = states[:, place_of(name, row)] if pooling == "token" else states[:, predicting].mean(1)
        every.append([np.mean([cosine(a, b) for j, b in enumerate(tokens) if j != i]) for i, a in enumerate(tokens)])
    np.testing.assert_allclose([layer.score for layer in found.layers], np.mean(every, 0), atol=1e-5)
    assert found.n_samples == len(rows)
    assert found.tokens == pytest.approx(np.mean([len(row["input_ids"]) for row in rows]))
    assert found.learned == pytest.approx(np.mean([sum(x >= 0 for x in row["labels"]) for row in rows]))


@pytest.mark.parametrize("name", TASKS)
def test_gradients_are_those_of_the_models_own_loss(read, name):
    model, tokenizer, data = read
    found = score_all(model, tokenizer, data[name], [wt.GradientNorm(), wt.Fisher()], batch_size=100)
    rows = task_of(data[name].info).encode(data[name], tokenizer, 60)
    layers = [list(layer.module.parameters()) for layer in find_layers(model).layers]
    total, squares, tokens = [0.0] * 4, np.zeros(4), 0
    sums = [[torch.zeros_like(p) for p in layer] for layer in layers]
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        loss, count = model(input_ids=ids, labels=labels).loss, int((labels >= 0).sum())
        gradients = torch.autograd.grad(loss, [p for layer in layers for p in layer])
        given = iter(gradients)
        for place, layer in enumerate(layers):
            own = [next(given) for _ in layer]
            squares[place] += sum(float(g.square().sum()) for g in own) / sum(g.numel() for g in own) / len(rows)
            for old, g in zip(sums[place], own, strict=True):
                old += g * count
        tokens += count
    total = [sum(float((g / tokens).square().sum()) for g in layer) ** 0.5 for layer in sums]
    np.testing.assert_allclose([layer.score for layer in found[0].layers], total, rtol=1e-3)
    np.testing.assert_allclose([layer.score for layer in found[1].layers], squares, rtol=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_the_meaning_of_a_row_is_the_token_that_is_to_follow(read, name):
    model, tokenizer, data = read
    found = score_all(model, tokenizer, data[name], [wt.SemanticDeviation()], batch_size=5)[0]
    weight = model.lm_head.weight.detach().double().numpy()
    inverse = np.linalg.pinv(weight.T)  # (token, hidden)
    every = []
    for row in task_of(data[name].info).encode(data[name], tokenizer, 60):
        place = place_of(name, row)
        states, base = states_of(model, row)[:, place], inverse[row["labels"][place + 1]]
        deviations = [1 - cosine(state, base) for state in states]
        every.append([before - after for before, after in pairwise(deviations)])
    np.testing.assert_allclose([layer.score for layer in found.layers], np.mean(every, 0), atol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_every_scorer_reads_every_task(read, name):
    model, tokenizer, data = read
    made = [catalog.build("scorer", Spec(one)) for one in catalog.names("scorer") if one != "layer-probe"]
    for scores in score_all(model, tokenizer, data[name], made):
        assert all(layer.excluded or np.isfinite(layer.score) for layer in scores.layers), scores.scorer


def test_what_does_not_go_together_is_refused(read):
    model, tokenizer, data = read
    with pytest.raises(ModelError, match="Qwen2Model has no output matrix"):
        score_all(model.model, tokenizer, data["chat"], [wt.GradientNorm()])
    labelled = wt.from_texts(["good", "bad"], ["a", "b"])
    with pytest.raises(ConfigError, match="classification has no target tokens to read"):
        score_all(model, tokenizer, labelled, [wt.CosineCentrality()], pooling="targets")


def test_the_token_that_represents_a_row():
    no = NOT_LEARNED
    assert start_of_answer([no, no, 5, 6, no, no, 7, 8, no]) == 6
    assert start_of_answer([no, 4]) == 1 and start_of_answer([no, no]) == 2
    assert last_learned([no, 5, 6, no]) == 2 and last_learned([no]) == 1
