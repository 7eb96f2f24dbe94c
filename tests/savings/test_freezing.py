"""What is frozen stays out of the training, also when other layers train from step to step."""

import gc
import weakref

import pytest
import torch
from torch import nn

from helpers.models import tiny_model
from wheretune.model.finding import find_layers
from wheretune.model.freezing import exclude_frozen
from wheretune.model.recomputing import checkpoint_activations


def hanging(model):
    """How many hooks hang on a model, and how many modules have a `forward` of their own."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks, sum("forward" in vars(m) for m in model.modules())


def train_only(stack, layers):
    for parameter in stack.model.parameters():
        parameter.requires_grad = False
    for index in layers:
        for parameter in stack.layers[index].module.parameters():
            parameter.requires_grad = True


def step(stack):
    """One step as Trainer takes it; returns which layers dropped out."""
    stack.model.train()
    stack.model.zero_grad()
    stack.model(torch.arange(5, 15).unsqueeze(0))[0].sum().backward()
    return [any(m.training for m in layer.module.modules()) for layer in stack.layers]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_moving_layers_leave_nothing_behind(family, checkpointing):
    model, _ = tiny_model(family)
    stack = find_layers(model)
    if checkpointing:
        checkpoint_activations(stack, 0)
    model.train()
    aside = stack.layers[3].module
    aside.eval()  # a part that the user keeps in eval mode
    modes = [module.training for module in model.modules()]
    counts = []
    for layers in [(3,), (2,), (1,), (0,), (2,), (1,), (3,)]:
        train_only(stack, layers)
        undo = exclude_frozen(stack)
        aside_modes = step(stack)
        assert aside_modes == [index in layers for index in range(4)]
        trained = {
            i for i, layer in enumerate(stack.layers) if any(p.grad is not None for p in layer.module.parameters())
        }
        assert trained == set(layers)
        counts.append(hanging(model)[0])
    assert len(set(counts)) == 1, "as many hooks however often it was called"
    undo()
    assert hanging(model) == (0, 0)
    model.train()
    aside.eval()
    assert [module.training for module in model.modules()] == modes


def test_undoing_gives_every_module_its_mode_back():
    model, _ = tiny_model("bert")
    stack = find_layers(model)
    train_only(stack, (3,))
    model.train()
    stack.layers[0].module.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    undo = exclude_frozen(stack)
    model(torch.arange(5, 15).unsqueeze(0))
    assert not any(m.training for m in stack.layers[1].module.modules())
    undo()
    assert {name: module.training for name, module in model.named_modules()} == modes
    undo = exclude_frozen(stack)
    model(torch.arange(5, 15).unsqueeze(0))
    model.eval()
    undo()
    assert not any(module.training for module in model.modules()), "what was put into eval mode since stays so"


def test_an_earlier_undo_does_not_touch_a_later_call():
    model, _ = tiny_model("bert")
    stack = find_layers(model)
    train_only(stack, (3,))
    first = exclude_frozen(stack)
    train_only(stack, (1,))
    second = exclude_frozen(stack)
    held = hanging(model)
    first()
    assert hanging(model) == held and step(stack) == [False, True, False, False]
    exclude_frozen(stack)
    assert hanging(model) == held, "the second is still known, and undone by the third"
    second()
    assert hanging(model) == held
    exclude_frozen(stack, dropout=True)()
    assert hanging(model) == (0, 0)


def test_a_model_that_is_let_go_is_freed():
    model, _ = tiny_model("bert")
    stack = find_layers(model)
    train_only(stack, (2,))
    exclude_frozen(stack)
    seen = weakref.ref(model)
    del model, stack
    gc.collect()
    assert seen() is None


def test_wrapped_forwards_come_off_in_any_order():
    from wheretune.model.calls import wrap_forward

    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1)):
        module = nn.Identity()
        undo = [wrap_forward(module, lambda forward, value, add=add: forward(value) + add) for add in (1, 10, 100)]
        left = {0: 1, 1: 10, 2: 100}
        assert module(0) == 111
        for which in order:
            undo[which]()
            undo[which]()
            del left[which]
            assert module(0) == sum(left.values())
        assert "forward" not in vars(module)


def test_a_wrapped_forward_takes_what_the_one_inside_takes():
    from inspect import signature

    from wheretune.model.calls import wrap_forward

    module = nn.Identity()
    plain = signature(module.forward)
    undo = [wrap_forward(module, lambda forward, value: forward(value)) for _ in range(2)]
    assert signature(module.forward) == plain
    for take_off in undo:
        take_off()
