"""Which schedule a budget chooses: the plans of several, priced, and the best of those that it pays for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wheretune import catalog
from wheretune.errors import ConfigError, PlanError
from wheretune.records.base import Spec
from wheretune.schedules.base import OrdersRows
from wheretune.scheduling import check_schedule
from wheretune.selectors.base import direction_of
from wheretune.selectors.fixed import Explicit
from wheretune.selectors.near import NEAR

if TYPE_CHECKING:
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
        PlanError: The budget cannot choose among schedules, or pays for none of the plans.
    """
    budget.check(len(scores.layers))
    values = scores.values if (budget.prefer or direction_of(scores.scorer)) == "highest" else -scores.values
    worth = np.nan_to_num(values - np.nanmin(values))
    scored = Explicit(tuple(np.flatnonzero(np.isfinite(values)).tolist()))
    found: list[tuple[float, float, Plan]] = []
    refused: PlanError | None = None
    for schedule in _named(budget, tuner, len(scored.layers)):
        try:
            made = planned(scored if schedule.moves else replace(budget, schedules=()), schedule)
        except PlanError as error:
            if schedule.moves:
                raise
            refused = error  # the budget pays for no layer that trains all the time
            continue
        shares = schedule.expected(len(made.layers))
        total = sum(share * worth[layer] for share, layer in zip(shares, made.layers, strict=True))
        found.append((float(total), 1 / made.cost.expected_speed_up, made))
    within = [one for one in found if one[1] <= budget.share]
    said = ", ".join(f"{plan.schedule.name} {spent:.1%}" for _, spent, plan in sorted(found, key=lambda one: one[1]))
    if not within:
        raise refused or PlanError(
            f"a budget of {budget.share:.1%} pays for none of the schedules ({said})",
            f"allow {min(spent for _, spent, _ in found):.3f} or more",
            "budget",
        )
    most = max(total for total, _, _ in within)
    total, spent, plan = min((one for one in within if one[0] >= (1 - NEAR) * most), key=lambda one: one[1])
    why = (
        f"{plan.schedule.name} has {total / (worth.sum() or 1.0):.0%} of the score of all layers, by the steps in "
        f"which each trains, for {spent:.1%} of full fine-tuning's compute, of {budget.share:.1%} allowed ({said})"
    )
    return replace(plan, selector=Spec.of(budget), reason=why)


def _named(budget: Budget, tuner: Tuner, layers: int) -> list[Schedule]:
    """The schedules that the budget names, with their default settings; of `any` those that can serve."""
    every = budget.schedules == (ANY,)
    found: list[Schedule] = []
    for name in catalog.names("schedule") if every else budget.schedules:
        schedule: Schedule = catalog.build("schedule", Spec(name))
        if isinstance(schedule, OrdersRows):
            if not every:
                raise ConfigError(
                    f"{name} hangs on what a language model makes of each text, and a budget looks at layers",
                    f"name it as the schedule (--schedule {name})",
                    "select",
                )
            continue
        try:
            check_schedule(schedule, tuner, layers)
        except ConfigError:
            if not every:
                raise
            continue
        found.append(schedule)
    return found
