"""A plan holds for a while, then the model is what it was; what was hashed is not hashed again."""

import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.often import often
from helpers.texts import classes_of, sentences
from wheretune.data.tokens import encode
from wheretune.errors import EngagementError, MergeError
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, fingerprints, tensor_hashes
from wheretune.records.runs import TrainSettings
from wheretune.tasks.base import task_of
from wheretune.training.loop import train

TUNERS = [
    wt.WholeLayers(), wt.WholeLayers(embeddings=True), wt.Bias(), wt.LoRA(r=2), wt.PiSSA(r=2), wt.DoRA(r=2),
    wt.AdaLoRA(r=2, start=3, every=1), wt.IA3(), wt.Adapter(), wt.Prefix(length=2),
]  # fmt: skip
ONCE = TrainSettings(epochs=1, learning_rate=1e-2, batch_size=4)


@pytest.fixture
def opened():
    """(the stack of a headless model, its data, its rows, how they are collated)."""
    stack, tokenizer = bert()
    data = wt.from_texts(sentences(16), classes_of(16))
    return stack, data, encode(data, tokenizer, 64), task_of(data.info).collator(tokenizer)


def bert(**changes):
    base, tokenizer = tiny_model("bert", **changes)
    base.pooler = None
    return find_layers(base), tokenizer


def hashes(model):
    return tensor_hashes(model.state_dict().items())


def planned(stack, data, tuner=None, layers=(1, 3)):
    return wt.plan(describe(stack), wt.Explicit(layers), tuner=tuner, data=data.info)


@pytest.mark.slow
@pytest.mark.parametrize("every", often([True, False], [False]), ids=["all tuners", "some tuners"])
def test_many_trainings_begin_from_one_model(opened, tmp_path, every):
    """Each gives what it gives on a model of its own, and leaves every weight as it was, bit for bit."""
    stack, data, rows, collate = opened
    base = stack.base
    flags = [p.requires_grad for p in base.parameters()]
    places = {name: p.data_ptr() for name, p in base.named_parameters()}
    modes = [module.training for module in base.modules()]
    before = hashes(base)
    for tuner in TUNERS if every else TUNERS[:10:3]:
        plan = planned(stack, data, tuner)
        own = headed(bert()[0], wt.LastToken(), data, seed=0)
        alone = wt.apply(own, plan)
        train(own, rows, collate, ONCE, None, followers=alone.followers)
        expected = {name: value.detach().clone() for name, value in alone.trainable.items()}
        model = headed(stack, wt.LastToken(), data, seed=0)
        with wt.apply(model, plan).temporarily(tmp_path) as tuned:
            assert list(tmp_path.iterdir()) == [], "no name is left for a killed process to leave behind"
            train(model, rows, collate, ONCE, None, followers=tuned.followers)
            tuned.check()
            assert all(torch.equal(value, expected[name]) for name, value in tuned.trainable.items())
            with pytest.raises(MergeError, match="gets its weights back"):
                tuned.merge()
        assert hashes(base) == before, tuner.name
        assert {name: p.data_ptr() for name, p in base.named_parameters()} == places
        assert [p.requires_grad for p in base.parameters()] == flags and all(p.grad is None for p in base.parameters())
        assert [module.training for module in base.modules()] == modes
        assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in base.modules())
        tuned.undo()  # once more does nothing


def test_weights_come_back_after_an_error(opened):
    stack, data, *_ = opened
    before = hashes(stack.base)
    with pytest.raises(ZeroDivisionError), wt.apply(stack.base, planned(stack, data)).temporarily() as tuned:
        with torch.no_grad():
            next(iter(tuned.trainable.values())).fill_(float("nan"))
        raise ZeroDivisionError
    assert hashes(stack.base) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tuner", [wt.WholeLayers(), wt.LoRA(r=2), wt.PiSSA(r=2)], ids=lambda tuner: tuner.name)
def test_what_was_hashed_before_is_not_hashed_again(opened, tuner, dtype):
    stack, data, rows, collate = opened
    stack.base.to(dtype)
    plan, bits = planned(stack, data, tuner), hashes(stack.base)
    known = {f"base.{name}": one for name, one in fingerprints(stack).items()}  # the head is not among them
    model = headed(stack, wt.LastToken(), data, seed=0)
    with wt.apply(model, plan, before=known, masters=True).temporarily() as tuned:
        with pytest.raises(EngagementError, match="did not change layer 1, layer 3, the head"):
            tuned.check()
        train(model, rows, collate, ONCE, None, followers=tuned.followers)
        tuned.check()
    assert hashes(stack.base) == bits
    wrong = known | {"base.encoder.layer.0.output.dense.weight": "another"}
    tuned = wt.apply(headed(stack, wt.LastToken(), data, seed=0), plan, before=wrong, masters=True)
    with pytest.raises(EngagementError, match=r"layer\.0\.output\.dense\.weight among"):
        tuned.check()


def test_a_weight_in_half_precision_that_changed_is_found(opened):
    stack, data, *_ = opened
    stack.base.to(torch.float16)
    tuned = wt.apply(stack.base, planned(stack, data))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 1
        tuned.check()
        stack.layers[0].module.output.dense.bias[0] += 1e-3
    with pytest.raises(EngagementError, match=r"layer\.0\.output\.dense\.bias among"):
        tuned.check()


def test_masters_go_back_to_their_own_precision(opened):
    stack, data, rows, collate = opened
    stack.base.to(torch.bfloat16)
    model = headed(stack, wt.LastToken(), data, seed=0)
    tuned = wt.apply(model, planned(stack, data), masters=True)
    assert {p.dtype for p in tuned.trainable.values()} == {torch.float32}
    assert stack.layers[0].module.output.dense.weight.dtype == torch.bfloat16, "of what is frozen there are none"
    train(model, rows, collate, ONCE, None)
    tuned.check()
    tuned.undo()
    assert {p.dtype for p in stack.base.parameters()} == {torch.bfloat16}
