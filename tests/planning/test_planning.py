"""Plans from scores and from a model alone, their price on other data, and several scorers side by side."""

import subprocess
import sys

import pytest

from helpers import made_up
from helpers.commands import SOURCE
from wheretune import catalog, planning
from wheretune.agreement import agreement
from wheretune.errors import ConfigError, PlanError
from wheretune.heads.concat import Concat
from wheretune.records.base import Spec, load, save
from wheretune.records.plan import Plan
from wheretune.selectors.budget import Budget
from wheretune.selectors.fixed import Bottom, Explicit, Random, Top
from wheretune.selectors.near import Near
from wheretune.selectors.ranked import Highest, Lowest
from wheretune.tuners.head_only import HeadOnly
from wheretune.tuners.low_rank import LoRA


def test_a_plan_from_scores_keeps_what_it_was_made_from(tmp_path):
    scores = made_up.scores()
    plan = planning.plan(scores, Highest(2), tuner=LoRA(r=2))
    assert plan.layers == (1, 3) and plan.scorer == scores.scorer and plan.scores_digest == scores.digest
    assert plan.chosen == (scores.layers[1], scores.layers[3]) and plan.confidence is not None
    save(plan, tmp_path / "plan.json")
    again = load(Plan, tmp_path / "plan.json")
    assert again == plan
    for axis in ("selector", "tuner", "head", "schedule"):
        spec = getattr(again, axis)
        assert Spec.of(catalog.build(axis, spec)) == spec


@pytest.mark.parametrize("selector", [Top(2), Bottom(1), Random(2), Explicit((0, 3))])
def test_a_plan_from_a_model_alone(selector):
    model, data = made_up.model_info(), made_up.scores().data
    plan = planning.plan(model, selector, data=data)
    scored = planning.plan(made_up.scores(), selector)
    assert plan.layers == scored.layers and plan.selector == scored.selector
    assert plan.chosen == () and plan.scorer is plan.scores_digest is plan.confidence is None
    assert plan.cost.trainable_parameters == scored.cost.trainable_parameters  # two outputs
    assert planning.plan(model, selector).cost.trainable_parameters == plan.cost.trainable_parameters - 9  # one
    assert (plan.cost.texts, plan.cost.tokens) == (30, 128)


def test_what_does_not_go_together_is_refused():
    model = made_up.model_info()
    for selector in (Highest(1), Budget(0.5), Near(Highest(1), 0.1)):
        with pytest.raises(PlanError, match="chooses by scores, and there are none"):
            planning.plan(model, selector)
    with pytest.raises(PlanError, match="full needs layers to be chosen"):
        planning.plan(model, None)
    with pytest.raises(PlanError, match="head-only tunes no layers"):
        planning.plan(model, Top(1), tuner=HeadOnly())
    with pytest.raises(PlanError, match="k is 9"):
        planning.check(Highest(9), 4)
    planning.check(Highest(4), 4)


@pytest.mark.parametrize("tuner", [name for name in catalog.names("tuner") if name != "head-only"])
def test_the_price_of_a_plan_needs_no_data(tuner):
    made = catalog.build("tuner", Spec(tuner, {"r": 2, "start": 4} if tuner == "adalora" else {"r": 2} if tuner in (
        "lora", "dora", "pissa") else {}))  # fmt: skip
    plan = planning.plan(made_up.scores(), Highest(2), tuner=made, head=Concat())
    assert planning.cost(plan) == plan.cost
    other = planning.cost(plan, tokens=50.0, texts=60, epochs=1, batch_size=2)
    assert (other.tokens, other.texts, other.epochs, other.batch_size) == (50.0, 60, 1, 2)
    assert other.trainable_parameters == plan.cost.trainable_parameters
    assert (
        other.lines[-1].memory.cache == 10 * plan.cost.lines[-1].memory.cache
    )  # five times the tokens, twice the texts


def test_no_price_for_no_epochs_nor_for_what_contradicts_itself():
    plan = planning.plan(made_up.scores(), Top(1))
    for name in ("epochs", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name.replace('_', ' ')} is 0") as caught:
            planning.cost(plan, **{name: 0})
        assert caught.value.field == name


def test_agreement_turns_scores_whose_source_tunes_the_lowest():
    rising, falling = (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)
    every = [made_up.scores(rising), made_up.scores(falling, "cka"), made_up.scores((0.5,) * 4, "weight-snr")]
    assert catalog.find("scorer", "cka").card.direction == "lowest"
    found = agreement(every, [Highest(1), Lowest(1), Highest(1)])
    assert found.names == ("cosine-centrality", "cka", "weight-snr")
    assert found.correlations[0][1] == found.correlations[1][0] == pytest.approx(1)
    assert found.correlations[0][2] is None and [one.layers for one in found.choices] == [(3,), (3,), (0,)]
    with pytest.raises(ConfigError, match="different numbers of layers"):
        agreement([made_up.scores(), made_up.scores((0.1, 0.2))], [Highest(1), Highest(1)])


def test_planning_and_pricing_open_no_torch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from helpers import made_up; from wheretune import planning\n"
        "from wheretune.selectors.blocks import BlockHighest; from wheretune.exports.base import export\n"
        "plan = planning.plan(made_up.scores(), BlockHighest(2)); planning.cost(plan, epochs=1)\n"
        "export(plan, 'axolotl'); plan.__rich__(); plan._repr_mimebundle_()\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    tests = SOURCE.replace("/src", "/tests")
    subprocess.run([sys.executable, "-c", code, tests], check=True, env={"PYTHONPATH": SOURCE, "PATH": ""})
