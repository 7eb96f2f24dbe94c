"""Options and models that a tuner cannot work with are refused by name."""

from dataclasses import replace

import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.tuners import planned
from wheretune import catalog
from wheretune.errors import ConfigError, ModelError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe


def test_a_tuner_is_not_put_on_twice():
    for tuner in (wt.LoRA(r=2), wt.Adapter(), wt.Prefix()):
        model, _ = tiny_model("bert")
        plan = planned(model, tuner)
        tuned = wt.apply(model, plan)
        with pytest.raises(wt.WheretuneError):
            wt.apply(model, plan)
        with pytest.raises(ModelError, match="already"):
            tuner.attach(tuned.stack, plan.layers, 0)
        tuned.undo()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        wt.apply(model, plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra", "did you mean lora"),
        ("lora:rank=2", "no option 'rank'"),
        ("lora:r", "no value"),
        ("lora:r=many", "option r is 'many'"),
        ("lora:r=0", "rank 0"),
        ("lora:dropout=1", "dropout 1"),
        ("full:embeddings=perhaps", "embeddings is 'perhaps'"),
        ("adapter:place=above", "the tuner adapter"),
        ("prefix:length=0", "length=0"),
        ("adalora:r=9:start=9", "start=9"),
        ("bias:r=2", "it has none"),
    ],
)
def test_options_that_cannot_be(text, message):
    with pytest.raises(ConfigError, match=message):
        catalog.read("tuner", text)


def test_targets():
    model, _ = tiny_model("bert")
    count = planned(model, wt.LoRA(r=1, targets="query,output.dense")).cost.trainable_parameters
    assert count == planned(model, wt.LoRA(r=1, targets="query+output.dense")).cost.trainable_parameters
    two_outputs = 2 * (64 + 64 + 96)  # query, attention.output.dense and output.dense of two layers
    assert count == two_outputs + 33
    with pytest.raises(ConfigError, match=r"targets=q_proj name no linear map.*attention\.self\.query"):
        planned(model, wt.LoRA(targets="query,q_proj"))
    with pytest.raises(ConfigError, match="rank 33"):
        planned(model, wt.PiSSA(r=33))


def test_weights_that_are_quantised_are_not_trained():
    model, _ = tiny_model("bert")
    plan = planned(model, wt.WholeLayers())
    stack = find_layers(model)
    names = [name for name, _ in model.named_modules()]

    class Packed(torch.nn.Module):  # as bitsandbytes keeps them: whole numbers that cannot require a gradient
        def __init__(self, linear):
            super().__init__()
            self.weight = torch.nn.Parameter(linear.weight.to(torch.uint8), requires_grad=False)

    stack.layers[1].module.output.dense = Packed(stack.layers[1].module.output.dense)
    info = replace(plan.model, hash=describe(find_layers(model)).hash)
    with pytest.raises(wt.WheretuneError, match="would train weights that are quantised"):
        wt.apply(model, replace(plan, model=info))
    assert [name for name, _ in model.named_modules()] == names
