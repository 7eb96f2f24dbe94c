"""RECAP: the worked numbers, the working copy, stops, what is written back, and what it cannot serve."""

import json

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import wheretune as wt
from helpers.commands import one_line
from helpers.models import tiny_model
from helpers.training import Watch, fresh
from wheretune import planning
from wheretune.errors import ConfigError, ModelError, TrainingError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes
from wheretune.model.steps import Training
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.schedules.recap import Recap, groups_of, least, ratios, share_of
from wheretune.schedules.rounds import along
from wheretune.schedules.working_copy import CutMap
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.loop import train

# 22 texts: 6 steps in an epoch
SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, weight_decay=0.0, seed=3)
EVERY = (0, 1, 2, 3)
WHOLE = wt.WholeLayers(embeddings=True)
SMALL = Recap(prune=0.25, mask=0.5, rounds=3, batches=2)


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# --- the worked numbers --------------------------------------------------------------------------


def test_the_shares_of_the_sub_steps():
    assert ratios(0.5, 4) == pytest.approx([0.125, 1 / 7, 1 / 6, 0.2])
    assert np.prod([1 - one for one in ratios(0.5, 4)]) == pytest.approx(0.5)
    assert ratios(0.33, 2) == pytest.approx([0.165, 0.197605], abs=1e-6)


def test_the_head_with_the_least_importance_goes():
    weights, gradients = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.1, 0.1], [0.2, 0]])
    importance = along((weights * gradients).square().double(), 0)
    assert importance.tolist() == pytest.approx([0.05, 0.36])
    assert [one.tolist() for one in least([importance.numpy()], 1)] == [[True, False]]


def test_the_least_are_taken_across_layers_ties_from_above_and_never_too_many_of_one():
    assert [one.tolist() for one in least([np.array([1.0, 2]), np.array([1.0, 1])], 2)] == [[False] * 2, [True] * 2]
    found = least([np.zeros(4), np.ones(4)], 5, most=0.85)
    assert [int(one.sum()) for one in found] == [3, 2]
    assert share_of(0.29, 100) == 29, "though .29 x 100 is a little below"


def test_only_the_row_that_is_kept_and_trains_changes():
    layer = torch.nn.Linear(2, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    one = CutMap("w", layer, 0, optimizer)
    one.weight.remove(torch.tensor([1]))
    one.train(torch.tensor([2]))
    one.cut()
    states = torch.randn(5, 2)
    made = layer(states)
    assert torch.allclose(made, states @ before[[0, 2]].T)
    made.square().sum().backward()
    assert layer.weight.shape == layer.weight.grad.shape == (1, 2)
    optimizer.step()
    one.weight.keep_up()
    assert torch.equal(layer(states)[:, 1], states @ layer.weight[0])
    one.mend()
    one.weight.put_back()
    assert torch.equal(layer.weight[:2], before[:2]) and not torch.equal(layer.weight[2], before[2])
    assert optimizer.state[layer.weight]["exp_avg"].shape == (3, 2) and "forward" not in vars(layer)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_gradients_are_those_of_a_whole_map(dim):
    layer, twin = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)
    twin.load_state_dict(layer.state_dict())
    removed, trained = torch.tensor([1, 3]), torch.tensor([0, 4])
    one = CutMap("w", layer, dim, torch.optim.SGD(layer.parameters(), lr=1.0))
    for tensor in one.tensors:
        tensor.remove(removed)
    one.train(trained)
    one.cut()
    kept = one.weight.kept
    states = torch.randn(2, 3, 6, requires_grad=True)
    copy = states.detach().clone().requires_grad_()
    made = layer(states[..., kept] if dim else states)
    expected = twin(copy * torch.zeros(6).index_fill(0, kept, 1) if dim else copy)
    expected = expected if dim else expected[..., kept]
    assert torch.allclose(made, expected, atol=1e-6)
    made.sin().sum().backward()
    expected.sin().sum().backward()
    assert torch.allclose(states.grad, copy.grad, atol=1e-6)
    assert torch.allclose(layer.weight.grad, twin.weight.grad.index_select(dim, trained), atol=1e-6)
    assert torch.allclose(layer.bias.grad, twin.bias.grad if dim else twin.bias.grad[trained], atol=1e-6)


def test_the_working_copy_of_bert_base():
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        base = BertModel(BertConfig(vocab_size=28996))
    total = sum(parameter.numel() for parameter in base.parameters()) + 2 * 768 + 2
    layers = find_layers(base).layers
    lost = 0
    for groups, left in zip(zip(*(groups_of(i, one.parts) for i, one in enumerate(layers)), strict=True), (120, 30598),
                            strict=True):  # fmt: skip
        units = sum(group.units for group in groups)
        assert units - share_of(0.17, units) == left
        layer = layers[0].module
        each = sum(
            width * (layer.get_submodule(path).weight.shape[1 - dim] + (dim == 0)) for path, dim, width in groups[0].maps()
        )
        lost += share_of(0.17, units) * each
    assert total - lost == 93_957_768


# --- a training ----------------------------------------------------------------------------------


def test_pruning_and_masking_nothing_is_full_fine_tuning():
    found = []
    for schedule in (None, Recap(prune=0.0, mask=0.0, rounds=3)):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
        tuned.check()
        found.append(weights_of(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6, rtol=0) for name in found[0])
