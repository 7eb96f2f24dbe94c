"""A plan holds for a while, then the model is what it was; what was hashed is not hashed again."""

import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune.data.batches import collator
from wheretune.data.tokens import encode
from wheretune.errors import EngagementError, MergeError, PlanError
from wheretune.heads.headed import HeadedModel
from wheretune.model.identity import tensor_hashes
from wheretune.records.runs import TrainSettings
from wheretune.training.loop import train

TUNERS = [
    wt.WholeLayers(), wt.WholeLayers(embeddings=True), wt.Bias(), wt.LoRA(r=2), wt.PiSSA(r=2), wt.DoRA(r=2),
    wt.AdaLoRA(r=2, start=3, every=1), wt.IA3(), wt.Adapter(), wt.Prefix(length=2),
]  # fmt: skip
ONCE = TrainSettings(epochs=1, learning_rate=1e-2, batch_size=4)


@pytest.fixture
def opened():
    base, tokenizer = tiny_model("bert")
    base.pooler = None
    data = wt.from_texts(sentences(16), [i % 2 for i in range(16)])
    scores = wt.score(base, tokenizer, data, wt.Depth())
    return base, scores, encode(data, tokenizer, 64), collator(tokenizer)


def hashes(model):
    return tensor_hashes(model.state_dict().items())


def headed(base):
    return HeadedModel(base, wt.LastToken(), 2, "classification", seed=0)


def test_many_trainings_begin_from_one_model(opened, tmp_path):
    """Each gives what it gives on a model of its own, and leaves every weight as it was, bit for bit."""
    base, scores, rows, collate = opened
    flags = [p.requires_grad for p in base.parameters()]
    places = {name: p.data_ptr() for name, p in base.named_parameters()}
    modes = [module.training for module in base.modules()]
    before = hashes(base)
    for tuner in TUNERS:
        plan = wt.plan(scores, wt.Explicit((1, 3)), tuner=tuner)
        own = headed(tiny_model("bert")[0])
        own.base.pooler = None
        alone = wt.apply(own, plan)
        train(own, rows, collate, ONCE, None, followers=alone.followers)
        expected = {name: value.detach().clone() for name, value in alone.trainable.items()}
        model = headed(base)
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
    base, scores, *_ = opened
    before = hashes(base)
    with pytest.raises(ZeroDivisionError), wt.apply(base, wt.plan(scores, wt.Explicit((2,)))).temporarily() as tuned:
        with torch.no_grad():
            next(iter(tuned.trainable.values())).fill_(float("nan"))
        raise ZeroDivisionError
    assert hashes(base) == before


@pytest.mark.parametrize("tuner", [wt.WholeLayers(), wt.LoRA(r=2), wt.PiSSA(r=2)], ids=lambda tuner: tuner.name)
def test_what_was_hashed_before_is_not_hashed_again(opened, tuner):
    base, scores, rows, collate = opened
    plan = wt.plan(scores, wt.Explicit((1, 3)), tuner=tuner)
    known = {
        f"base.{name}": one for name, one in hashes(base).items()
    }  # as the opener has them; the head is not among them
    model = headed(base)
    with wt.apply(model, plan, before=known).temporarily() as tuned:
        with pytest.raises(EngagementError, match="did not change layer 1, layer 3, the head"):
            tuned.check()
        train(model, rows, collate, ONCE, None, followers=tuned.followers)
        tuned.check()
    wrong = known | {"base.encoder.layer.0.output.dense.weight": "another"}
    tuned = wt.apply(headed(base), plan, before=wrong)
    with pytest.raises(EngagementError, match=r"layer\.0\.output\.dense\.weight among"):
        tuned.check()


def test_a_layer_that_is_not_there_is_refused_without_hashes(opened):
    from dataclasses import replace

    base, scores, *_ = opened
    plan = replace(wt.plan(scores, wt.Explicit((1,))), layers=(9,))
    with pytest.raises(PlanError, match="names layer 9"):
        wt.apply(base, plan, before=hashes(base))
