"""What a plan costs beside full fine-tuning, saving by saving."""

from dataclasses import astuple, replace

import pytest

from helpers import made_up
from wheretune import planning
from wheretune.cost.flops import compute_share, full
from wheretune.cost.training import Training
from wheretune.heads.concat import Concat
from wheretune.records.base import load, save
from wheretune.records.cost import Cost
from wheretune.records.model import LayerParts
from wheretune.selectors.fixed import Bottom, Explicit, Top
from wheretune.tuners.bias import Bias
from wheretune.tuners.head_only import HeadOnly
from wheretune.tuners.low_rank import LoRA
from wheretune.tuners.whole_layers import WholeLayers

PARTS = [layer.parts for layer in made_up.model_info().layers]


def test_a_plan_says_what_it_costs(tmp_path):
    plan = planning.plan(made_up.scores(), Explicit((2, 3)))
    cost = plan.cost
    assert (cost.tokens, cost.texts, cost.batch_size, cost.epochs) == (10.0, 30, 16, 3)
    assert cost.expected_speed_up == pytest.approx(1 / compute_share(PARTS, Training((2, 3)), 10.0))
    assert [line.name for line in cost.lines] == [
        "full fine-tuning", "plain freezing", "with the prefix cache", "reading one token only", "everything"
    ]  # fmt: skip
    reference, plain, cache, one, every = cost.lines
    assert reference.speed_up == 1 and reference.flops == full(PARTS, 10.0)
    assert 1 < plain.speed_up < min(cache.speed_up, one.speed_up) < every.speed_up == cost.limit
    assert cost.expected_speed_up < cost.limit
    trained, total = cost.trainable_parameters, cost.total_parameters
    assert astuple(every.memory)[:3] == (4 * total, 4 * trained, 8 * trained)
    assert astuple(reference.memory)[:3] == (4 * total, 4 * total, 8 * total)
    assert every.memory.cache == cache.memory.cache == 4 * 8 * 30 * 10 and plain.memory.cache == 0
    assert every.memory.activations < plain.memory.activations < reference.memory.activations
    assert every.memory.total == sum(astuple(every.memory))
    assert str(cost).endswith(f"over 3 epochs, and at most {cost.limit:.2f}x")
    save(cost, tmp_path / "cost.json")
    assert load(Cost, tmp_path / "cost.json") == cost


def test_tuners_and_heads_in_a_plan():
    scores = made_up.scores()
    whole, lora, bias = (planning.plan(scores, Explicit((2,)), tuner=t).cost for t in (None, LoRA(r=1), Bias()))
    for few, share in ((lora, 0.1), (bias, 0.1)):
        assert few.lines[1].flops.weight_gradients < share * whole.lines[1].flops.weight_gradients
        assert few.lines[1].flops.forward == whole.lines[1].flops.forward
        assert few.expected_speed_up > whole.expected_speed_up
    head = planning.plan(scores, None, tuner=HeadOnly(), head=Concat()).cost
    assert head.expected_speed_up == pytest.approx(3 * full(PARTS, 10.0).total / head.lines[1].flops.forward)
    assert head.limit is None and head.lines[-1].speed_up is None and head.lines[-1].flops.total == 0
    assert head.lines[-1].memory.cache == 4 * 8 * 30 * 4
    everything = planning.plan(scores, Bottom(4), tuner=WholeLayers(embeddings=True)).cost
    assert everything.lines[1].speed_up == 1 and everything.lines[1].memory == everything.lines[0].memory
    assert everything.lines[-1].memory.cache == 0


def test_norms_that_train_stand_before_the_queries_of_decoders():
    decoder = made_up.model_info(parts=made_up.bert_parts(norm_first=True))
    one, other = (planning.plan(decoder, Top(1), tuner=tuner).cost.lines[1] for tuner in (Bias(), LoRA(r=1)))
    assert one.flops.input_gradients > other.flops.input_gradients  # down to the norm, and not


def test_nothing_read_and_layers_without_linear_maps():
    assert planning.plan(made_up.scores(tokens=None), Top(1)).cost.tokens == 128
    bare = made_up.model_info(parts=LayerParts())  # 10,000 parameters per layer
    cost = planning.plan(made_up.scores(model=bare), Explicit((2,))).cost
    # one square map of 100 x 100 per layer: 4 forward, 2 down, 1 of weights, of 12
    assert cost.lines[1].speed_up == pytest.approx(12 / 7)
    assert cost.limit == pytest.approx(12 / (2 + 2 + 1))
    assert cost.expected_speed_up == pytest.approx(12 / (2 + 2 + 1 + 2 / 3))


def test_a_tuner_may_add_more_than_the_model_has():
    small = made_up.model_info(1)
    large = planning.plan(small, Top(1), tuner=LoRA(r=1000, targets="all-linear")).cost
    assert large.share > 1 and large.lines[-1].memory.weights > 0
    assert replace(large, epochs=1) != large
