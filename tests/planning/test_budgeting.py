"""A budget that chooses the schedule too: the best expected score among the plans that it pays for."""

from dataclasses import replace

import numpy as np
import pytest

import wheretune as wt
from helpers import made_up
from wheretune import planning
from wheretune.errors import ConfigError, ModelError, WheretuneError
from wheretune.records.base import from_json, to_json
from wheretune.records.model import LayerParts
from wheretune.records.plan import Plan
from wheretune.schedules.lift import LiftStar
from wheretune.schedules.static import Static
from wheretune.selectors.budget import Budget
from wheretune.tuners.adalora import AdaLoRA

SCORES = made_up.scores()
WORTH = SCORES.values - SCORES.values.min()


def spent(plan):
    return 1 / plan.cost.expected_speed_up


def worth(plan, schedule):
    return sum(
        share * WORTH[layer] for share, layer in zip(schedule.expected(len(plan.layers)), plan.layers, strict=True)
    )


@pytest.mark.parametrize("tuner", [wt.WholeLayers(), wt.LoRA(r=2)], ids=lambda one: one.name)
@pytest.mark.parametrize("share", np.linspace(0.2, 1, 9))
def test_no_plan_within_the_budget_is_worth_more(share, tuner):
    schedules = (Static(), wt.Lift(), LiftStar(), wt.Lisa())
    every = {
        one.name: planning.plan(SCORES, wt.Explicit(every=True), tuner=tuner, schedule=one) for one in schedules[1:]
    }
    every["static"] = planning.plan(SCORES, Budget(share, prefer="highest"), tuner=tuner)
    values = {one.name: worth(every[one.name], one) for one in schedules if spent(every[one.name]) <= share}
    made = planning.plan(
        SCORES, Budget(share, prefer="highest", schedules=("static", "lift", "lift-star", "lisa")), tuner=tuner
    )
    name = made.schedule.name
    assert values[name] >= 0.99 * max(values.values()) and spent(made) <= share
    assert made.layers == every[name].layers and made.cost == every[name].cost
    near = [spent(every[one]) for one, value in values.items() if value >= 0.99 * max(values.values())]
    assert spent(made) == min(near)
    assert f"{name} has " in made.reason and f"{spent(made):.1%} of full" in made.reason
    assert from_json(Plan, to_json(made), "plan") == made


def test_any_leaves_out_what_cannot_serve():
    made = planning.plan(SCORES, Budget(1.0, schedules=("any",)), tuner=wt.LoRA(r=2))
    assert "lift" in made.reason and "slimfit" not in made.reason and "salf" not in made.reason
    made = planning.plan(SCORES, Budget(1.0, schedules=("any",)), tuner=AdaLoRA())
    assert made.schedule.name == "static" and "lift" not in made.reason


def test_a_model_of_which_recap_makes_no_copy():
    fused = replace(SCORES.model.layers[0], parts=LayerParts())
    model = replace(SCORES.model, layers=(fused, *SCORES.model.layers[1:]))
    scores = replace(SCORES, model=model)
    assert "recap" not in planning.plan(scores, Budget(1.0, schedules=("any",))).reason
    with pytest.raises(ModelError, match="of which recap removes"):
        planning.plan(scores, Budget(1.0, schedules=("static", "recap")))


@pytest.mark.parametrize(
    ("budget", "given", "words"),
    [
        (Budget(0.01, schedules=("any",)), {}, "pays for no layer"),
        (Budget(0.01, schedules=("lift", "lisa")), {}, r"pays for none of the schedules \(lift \d+"),
        (Budget(0.5, "parameters", schedules=("any",)), {}, "a budget of parameters cannot choose among schedules"),
        (Budget(0.5, schedules=("static", "lifts")), {}, "did you mean lift"),
        (Budget(0.5, schedules=("static", "salf")), {}, "name it as the schedule"),
        (Budget(0.5, schedules=("static", "lift")), {"schedule": wt.Lift()}, "the budget is to choose a schedule"),
        (Budget(0.5, schedules=("static", "slimfit")), {"tuner": wt.LoRA()}, "ranks the model's own weights"),
    ],
)
def test_what_cannot_be_is_refused_in_words(budget, given, words):
    with pytest.raises(WheretuneError, match=words):
        planning.plan(SCORES, budget, **given)
    with pytest.raises(ConfigError, match="lifts"):
        Budget(0.5, schedules=("lifts",)).check(4)
