"""The last layer cut to the token that is read gives what the whole one gives, in outputs and in gradients."""

import pytest
import torch

import wheretune as wt
from helpers.families import FAMILIES, TUNERS, pairs, planned, tiny
from helpers.models import tiny_model
from helpers.savings import assert_same, batch, outcome
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.savings.one_token import one_token
from wheretune.tasks.classification import Classification

ONE_STACK = [family for family in FAMILIES if family not in ("t5", "bart")]
CUT = [family for family in ONE_STACK if family != "opt"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", CUT)
def test_every_family_bears_it(family, side):
    for head in (wt.LastToken(), wt.Concat()):
        model = HeadedModel(find_layers(tiny(family)), head, 2, Classification(), 0).eval()
        whole = outcome(model, batch(side))
        with one_token(model.stack, batch(side)) as holds:
            assert holds, "this family is left as it is"
            assert_same(outcome(model, batch(side)), whole)
        assert_same(outcome(model, batch(side)), whole)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("family", "tuner"), pairs("bert", "gpt2", "llama"))
def test_with_every_tuner_in_the_last_layer(family, tuner):
    base = tiny(family)
    model = HeadedModel(find_layers(base), wt.LastToken(), 2, Classification(), 0).eval()
    tuned = wt.apply(model, planned(base, TUNERS[tuner], (2, 3)), seed=1)
    with torch.no_grad():  # away from where a tuner starts, which changes nothing
        generator = torch.Generator().manual_seed(0)
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    whole = outcome(model, batch())
    with one_token(tuned.stack, batch()) as holds:
        assert holds
        assert_same(outcome(model, batch()), whole)


@pytest.mark.parametrize("family", CUT)
def test_fewer_tokens_run_in_the_last_layer_alone(family):
    model = HeadedModel(find_layers(tiny(family)), wt.LastToken(), 2, Classification(), 0).eval()
    seen = {}
    for layer in model.stack.layers:
        path = layer.parts.mlp_output
        layer.module.get_submodule(path).register_forward_pre_hook(
            lambda _, args, index=layer.index: seen.__setitem__(index, args[0].shape[1])
        )
    with one_token(model.stack, batch()):
        model(**batch())
    assert seen == {0: 12, 1: 12, 2: 12, 3: 1}


def test_a_family_that_flattens_its_tokens_is_left_as_it_is():
    model = HeadedModel(find_layers(tiny("opt")), wt.LastToken(), 2, Classification(), 0).eval()
    with one_token(model.stack, batch()) as holds:
        assert not holds


def test_a_layer_that_cannot_be_cut_is_left_as_it_is():
    class AllTokens(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) + hidden.mean(1, keepdim=True)  # other tokens matter to this one

    model, _ = tiny_model("bert")
    stack = find_layers(model)
    output = stack.layers[-1].module.attention.output
    maps = AllTokens(32, 32)
    maps.load_state_dict(output.dense.state_dict())
    output.dense = maps
    stack = find_layers(model)
    with one_token(stack, batch()) as holds:
        assert not holds
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
