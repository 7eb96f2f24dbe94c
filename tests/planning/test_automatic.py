"""What `auto` means: how many layers, and which learning rate."""

from dataclasses import replace

import pytest

from helpers import made_up
from wheretune import automatic, catalog, planning
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.selectors.auto import Auto
from wheretune.selectors.blocks import BlockHighest
from wheretune.selectors.fixed import Top
from wheretune.selectors.ranked import Highest
from wheretune.selectors.upwards import Upwards
from wheretune.tuners.whole_layers import WholeLayers


def test_many_labelled_texts_take_all_layers_above_the_lowest_chosen():
    few = made_up.scores((0.1, 0.2, 0.4, 0.1, 0.3, 0.2))
    many = replace(few.data, rows=automatic.MANY)
    assert planning.plan(few, automatic.with_layers_above(BlockHighest(), few.data)).layers == (2, 4)
    assert planning.plan(few, automatic.with_layers_above(BlockHighest(), many)).layers == (2, 3, 4, 5)
    for said in (BlockHighest(2), Highest(ratio=0.5), Top(), Auto()):  # a number given is a number used
        assert automatic.with_layers_above(said, many) == said
    assert (
        automatic.with_layers_above(BlockHighest(), replace(many, task=Spec("unlabelled"), classes=()))
        == BlockHighest()
    )
    speech = replace(many, task=Spec("chat"), classes=())
    assert automatic.with_layers_above(BlockHighest(), speech) == BlockHighest()


def test_how_many_layers_is_said_where_it_was_left_open():
    scores = made_up.scores((0.1, 0.2, 0.4, 0.1, 0.3, 0.2))
    plans = [planning.plan(scores, made) for made in (BlockHighest(), Upwards(BlockHighest()))]
    said = [automatic.count_in_words(Spec("block-highest"), plan) for plan in plans]
    assert said[0] == "2 of 6 layers: a quarter, rounded up; "
    assert said[1] == "4 of 6 layers: a quarter, rounded up, and with 2000 texts or more all above the lowest; "
    assert automatic.count_in_words(Spec("block-highest", {"k": 2}), plans[0]) == ""


@pytest.mark.parametrize("tuner", [made() for made in catalog.every("tuner").values()], ids=lambda made: made.name)
def test_few_layers_few_steps_and_narrow_models_take_a_higher_learning_rate(tuner):
    model = made_up.model_info(9)  # of width 8
    every = tuple(range(9))

    whole = tuner.rate * 96  # as it is told for width 768
    expected = {(every, 225): 1, ((4,), 225): 3, (every, 400): 0.75, (every, 1): 2, (every, 10**6): 2 / 3, ((), 225): 1}
    for (layers, steps), times in expected.items():
        found = automatic.learning_rate(tuner, model, layers, steps)
        assert found == float(f"{whole * times:.1g}"), (layers, steps)


def test_a_learning_rate_that_is_given_is_the_one_that_is_used():
    plan = planning.plan(made_up.scores(), Highest(1))
    given = TrainSettings(learning_rate=5e-5)
    assert automatic.settled(given, plan, 100) == (given, None)
    settled, why = automatic.settled(TrainSettings(epochs=2), plan, 100)
    wanted = automatic.learning_rate(WholeLayers(), plan.model, plan.layers, 14)
    assert settled == TrainSettings(epochs=2, learning_rate=wanted)
    assert why is not None and "full on 1 of 4 layers of width 8 in 14 steps" in why and f"{wanted:g}" in why
    packed = TrainSettings(epochs=2, tokens_per_batch=50)  # 5 texts of 10 tokens
    assert "40 steps" in str(automatic.settled(packed, plan, 100)[1])
