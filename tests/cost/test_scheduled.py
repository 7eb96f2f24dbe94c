"""What a schedule makes of the cost: the mean over its steps, the memory of its heaviest stage."""

import pytest

import wheretune as wt
from helpers import made_up
from wheretune import planning
from wheretune.cost.flops import EVERYTHING, NOTHING, Savings, estimate, full
from wheretune.cost.training import Training, known_parts
from wheretune.show.records import steps_per_layer

MODEL = made_up.model_info(12)
PARTS = [known_parts(layer) for layer in MODEL.layers]
TEXT = 10.0


def planned(schedule, layers=tuple(range(12)), tuner=None):
    return planning.plan(MODEL, wt.Explicit(layers), schedule=schedule, tuner=tuner, tokens=TEXT)


def mean(sets, savings=NOTHING, frozen=None):
    """The slow twin: every set by itself, each as often as the others."""
    return sum(estimate(PARTS, Training(layers), TEXT, savings, frozen).total for layers in sets) / len(sets)


def test_lift_costs_the_mean_of_its_turns():
    cost = planned(wt.Lift()).cost
    turns = [(layer,) for layer in range(12)]
    _, plain, cached, one, every = cost.lines
    assert plain.flops.total == pytest.approx(mean(turns)) and one.flops.total < plain.flops.total
    assert cached.flops.total == pytest.approx(mean(turns, Savings(cache=True)))
    # one sweep costs 1.54 of full fine-tuning's 3 units where attention is free: 1 forward, 1/2 back, 1/12 of weights
    linear = sum(wide * high for wide, high in PARTS[0].maps.values())
    assert plain.flops.weight_gradients == pytest.approx(2 * linear * TEXT)
    short = planning.cost(planned(wt.Lift()), tokens=1e-3).lines
    assert short[1].flops.total / short[0].flops.total == pytest.approx(1.54 / 3 + 0.75 / 36, abs=1e-3), (
        "and inside its lowest layer"
    )
    assert cost.trainable_parameters == planned(None).cost.trainable_parameters
    making = sum(estimate(PARTS[:1], Training((0,)), TEXT).forward for _ in range(11)) / 3
    assert 1 / cost.expected_speed_up == pytest.approx(
        min(every.flops.total + making, mean(turns, Savings(one_token=True))) / full(PARTS, TEXT).total
    )


def test_lift_star_s_stages_grow_shorter():
    plain = planned(wt.LiftStar(), (1, 5, 9)).cost.lines[1]
    assert plain.flops.total == pytest.approx(mean([(1, 5, 9), (5, 9), (9,)]))


def test_where_the_lowest_goes_down_again_the_cache_ends_below_the_lowest_of_all():
    chosen = (3, 6, 9)
    cost = planned(wt.Lisa(1, 1, train_embeddings=False), chosen).cost
    spread = cost.lines[1].flops.weight_gradients / estimate(PARTS, Training((0,)), TEXT).weight_gradients
    assert spread == pytest.approx(1), "one layer at a time"
    saved = cost.lines[1].flops.forward - cost.lines[2].flops.forward
    assert saved == pytest.approx(3 * estimate(PARTS[:1], Training(()), TEXT).forward)
    assert mean([(3,)], EVERYTHING) > cost.lines[-1].flops.total > mean([(9,)], EVERYTHING)


@pytest.mark.parametrize("state", ["drop", "keep"])
def test_the_memory_is_that_of_the_heaviest_stage(state):
    size, rest = MODEL.layers[0].parameters, 1_000 + 9
    plan = planned(wt.Lisa(2, 5, state=state))
    memory = plan.cost.lines[1].memory
    assert plan.tuner.params["embeddings"] is True and memory.weights == 4 * (12 * size + rest)
    assert memory.gradients == 4 * (2 * size + rest)
    assert memory.optimizer == 8 * ((2 if state == "drop" else 12) * size + rest)
    assert planning.cost(plan).lines == plan.cost.lines, "also from a plan that was kept"


@pytest.mark.parametrize(
    ("schedule", "layers", "words"),
    [
        (wt.Lift(), range(12), "each layer trains in 8.3% of the steps"),
        (wt.LiftStar(), (1, 5), "1: 50%, 5: 100% of the steps"),
        (wt.Lisa(3), range(12), "each layer trains in 25.0% of the steps"),
    ],
)
def test_a_plan_says_how_often_each_layer_is_to_train(schedule, layers, words, capsys):
    plan = planned(schedule, tuple(layers))
    assert steps_per_layer(plan) == words and steps_per_layer(planned(None)) is None
    assert words.split(" of")[0].split(",")[0] in plan._repr_html_()
