"""Which schedule a budget chooses: the plans of several, priced, and the best of those that it pays for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wheretune import catalog
from wheretune.errors import ConfigError, ModelError, PlanError
from wheretune.records.base import Spec
from wheretune.schedules.base import OrdersRows
from wheretune.scheduling import check_schedule
from wheretune.selectors.base import direction_of
from wheretune.selectors.fixed import Explicit
from wheretune.selectors.near import NEAR

if TYPE_CHECKING:
    from jaxtyping import Float

    from wheretune.records.plan import Plan
    from wheretune.records.scores import LayerScores
    from wheretune.schedules.base import Schedule
    from wheretune.selectors.base import Selector
    from wheretune.selectors.budget import Budget
    from wheretune.tuners.base import Tuner

ANY = "any"


def best(
    budget: Budget, scores: LayerScores, tuner: Tuner, planned: Callable[[Selector | Budget, Schedule], Plan]
) -> Plan:
    """The plan, of those of the budget's schedules, of the best score that the budget pays for.

    `static` trains the layers that the budget chooses, a schedule that moves all that have a score. What a plan is
    worth is the sum over layers of how far the score lies above the worst, times the expected share of the steps in
    which the layer trains. What it costs is the plan's own price. Within 1 % of the best the cheapest is taken.

    Args:
        budget: The selector.
        scores: Of the layers.
        tuner: How they are tuned.
        planned: Makes the plan of a choice of layers and a schedule.

    Raises:
        ConfigError: A schedule is not known, or cannot be chosen so.
        ModelError: A schedule that is named cannot serve the model.
        PlanError: The budget cannot choose among schedules, or pays for none of the plans.
    """
    budget.check(len(scores.layers))
    values = scores.values if (budget.prefer or direction_of(scores.scorer)) == "highest" else -scores.values
    worth = np.nan_to_num(values - np.nanmin(values))
    scored = Explicit(tuple(np.flatnonzero(np.isfinite(values)).tolist()))
    found: list[Priced] = []
    refused: PlanError | None = None
    for schedule in _serving(budget, tuner, len(scored.layers)):
        chosen = scored if schedule.moves else replace(budget, schedules=())
        try:
            found.append(Priced.of(planned(chosen, schedule), schedule, worth))
        except PlanError as error:  # it pays for no layer that trains all the time
            refused = error
        except ModelError:  # RECAP can make no smaller copy of some models
            if budget.schedules != (ANY,):
                raise
    said = ", ".join(f"{one.name} {one.spent:.1%}" for one in sorted(found, key=lambda one: one.spent))
    within = [one for one in found if one.spent <= budget.share]
    if not within:
        raise refused or PlanError(
            f"a budget of {budget.share:.1%} pays for none of the schedules ({said})",
            f"allow {min(one.spent for one in found):.3f} or more",
            "budget",
        )
    return _chosen(budget, within, said)


def _chosen(budget: Budget, within: list[Priced], said: str) -> Plan:
    """The plan of most worth, the cheapest of those that come near, with the reason."""
    most = max(one.worth for one in within)
    taken = min((one for one in within if one.worth >= (1 - NEAR) * most), key=lambda one: one.spent)
    why = (
        f"{taken.name} has {taken.worth:.0%} of the score of all layers, by the steps in which each trains, for "
        f"{taken.spent:.1%} of full fine-tuning's compute, of {budget.share:.1%} allowed ({said})"
    )
    return replace(taken.plan, selector=Spec.of(budget), reason=why)


@dataclass(frozen=True)
class Priced:
    """A plan, what it is worth as a share of the worth of all layers, and what it spends of full fine-tuning."""

    plan: Plan
    worth: float
    spent: float

    @classmethod
    def of(cls, plan: Plan, schedule: Schedule, worth: Float[np.ndarray, " layer"]) -> Priced:
        """A plan whose schedule is `schedule`, with what each layer is worth."""
        shares = zip(schedule.expected(len(plan.layers)), plan.layers, strict=True)
        total = sum(share * worth[layer] for share, layer in shares)
        return cls(plan, float(total / (worth.sum() or 1.0)), 1 / plan.cost.expected_speed_up)

    @property
    def name(self) -> str:
        """Of the schedule."""
        return self.plan.schedule.name


def named(budget: Budget) -> list[Schedule]:
    """The schedules that a budget names, with their default settings; none where it takes any.

    Raises:
        ConfigError: One is not known, or cannot be chosen so.
    """
    found = {name: catalog.build("schedule", Spec(name)) for name in budget.schedules if name != ANY}
    for name, schedule in found.items():
        if isinstance(schedule, OrdersRows):
            raise ConfigError(
                f"{name} hangs on what a language model makes of each text, and a budget looks at layers",
                f"name it as the schedule (--schedule {name})",
                "select",
            )
    return list(found.values())


def _serving(budget: Budget, tuner: Tuner, layers: int) -> list[Schedule]:
    """The schedules that the budget names; of `any` those that can serve."""
    if budget.schedules != (ANY,):
        found = named(budget)
        for schedule in found:
            check_schedule(schedule, tuner, layers)
        return found
    every = [catalog.build("schedule", Spec(name)) for name in catalog.names("schedule")]
    return [one for one in every if not isinstance(one, OrdersRows) and _serves(one, tuner, layers)]


def _serves(schedule: Schedule, tuner: Tuner, layers: int) -> bool:
    try:
        check_schedule(schedule, tuner, layers)
    except ConfigError:
        return False
    return True
