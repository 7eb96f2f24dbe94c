"""A checkpoint is whole, holds what may train by name, and no other version's is taken."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from wheretune.errors import TrainingError
from wheretune.training.checkpoints import (
    Checkpoint,
    checkpoints,
    load_checkpoint,
    optimizer_state,
    restore_optimizer,
    restore_parameters,
    save_checkpoint,
)


def at(step):
    return TrainerState(global_step=step)


def trained():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 1))
    model[0].weight.requires_grad = False
    groups = [{"params": [model[1].weight, model[1].bias]}, {"params": [model[2].bias], "lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    model[1].requires_grad_(False)  # frozen now, with no state; it may train later
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    slots, settings = optimizer_state(optimizer, model)
    kept = {name: model.get_parameter(name) for name in ("1.weight", "1.bias", "2.bias")}
    tensors = {"part": {"a/b": torch.arange(3)}, "empty": {}}
    return (
        model,
        optimizer,
        Checkpoint(kept, slots, settings, tensors, {"torch": torch.get_rng_state()}, {"seconds": 1}),
    )


def test_it_comes_back_as_it_was(tmp_path):
    model, optimizer, made = trained()
    save_checkpoint(made, tmp_path, at(4))
    found = load_checkpoint(tmp_path / "checkpoint-4")
    assert set(found.parameters) == {"1.weight", "1.bias", "2.bias"} and set(found.optimizer) == {"2.bias"}
    assert set(found.optimizer["2.bias"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert [group["lr"] for group in found.groups] == [0.1, 0.5] and "params" not in found.groups[0]
    assert torch.equal(found.followers["part"]["a/b"], torch.arange(3)) and found.rest == {"seconds": 1}
    expected = optimizer.state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    restore_parameters(model, found)
    assert model[0].weight.eq(0).all() and all(
        torch.equal(model.get_parameter(n), v) for n, v in found.parameters.items()
    )
    other = torch.optim.AdamW([{"params": [model[1].weight, model[1].bias]}, {"params": [model[2].bias]}])
    restore_optimizer(other, model, found)
    state = other.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    assert state["state"].keys() == expected["state"].keys() == {2}
    assert all(torch.equal(value, expected["state"][2][slot]) for slot, value in state["state"][2].items())


def test_the_one_before_goes_when_the_next_is_whole(tmp_path):
    _, _, made = trained()
    save_checkpoint(made, tmp_path, at(4))
    with pytest.raises(TypeError):  # while it is written
        save_checkpoint(Checkpoint(made.parameters, {}, [], {}, {}, {"seconds": object()}), tmp_path, at(8))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    save_checkpoint(made, tmp_path, at(12))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-12"] == [p.name for p in checkpoints(tmp_path)]


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model, _, made = trained()
    with pytest.raises(TrainingError, match=r"disagree on whether 2\.weight trains"):
        restore_optimizer(torch.optim.AdamW(model[1:].parameters()), model, made)
    with pytest.raises(TrainingError, match=r"has no 1\.bias"):
        restore_parameters(model[:1], made)
    old = tmp_path / "checkpoint-6"
    old.mkdir()
    save_file({"model.head.weight": torch.ones(2), "optimizer.0.step": torch.ones(1)}, old / "state.safetensors")
    (old / "state.json").write_text(json.dumps({"seconds": 1.0, "param_groups": []}))
    with pytest.raises(TrainingError, match=r"another version of wheretune wrote .*checkpoint-6"):
        load_checkpoint(old)
