"""What a schedule makes of a plan before anything trains: its tuner, its stages for the cost, what is saved."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wheretune import catalog
from wheretune.cost.training import Stages
from wheretune.records.base import Spec
from wheretune.schedules import timetable
from wheretune.schedules.base import WorkingCopy

if TYPE_CHECKING:
    from wheretune.cost.training import Training
    from wheretune.records.plan import Plan
    from wheretune.schedules.base import Schedule
    from wheretune.tuners.base import Tuner

LOOKED_AT = 1000  # steps of a schedule
MOST_TEXTS = 20_000  # more change no third digit


def scheduled(tuner: Tuner, schedule: Schedule) -> Tuner:
    """The tuner, with or without the embeddings where the schedule says so and the tuner can train them."""
    spec = Spec.of(tuner)
    if schedule.embeddings is None or "embeddings" not in spec.params:
        return tuner
    made: Tuner = catalog.build("tuner", Spec(spec.name, {**spec.params, "embeddings": schedule.embeddings}))
    return made


def check_schedule(schedule: Schedule, tuner: Tuner) -> None:
    """Refuses a schedule that cannot serve a tuner, however many layers there are.

    Raises:
        ConfigError: It cannot.
    """
    schedule.check(sys.maxsize if tuner.needs_layers else 0, Spec.of(scheduled(tuner, schedule)))


def stages_of(
    schedule: Schedule, layers: int, training: Training, of: Callable[[Sequence[int]], Training]
) -> Stages | None:
    """What trains when, for the cost; None where nothing moves.

    A thousand steps are looked at, or as many of them as give every layer the same share.

    Args:
        schedule: The schedule.
        layers: How many layers the model has.
        training: All that may train.
        of: What trains of it with some of its layers.
    """
    if not schedule.moves:
        return None
    keeps, count = schedule.optimizer_state == "keep", len(training.layers)
    if isinstance(schedule, WorkingCopy):  # what stands outside the layers trains whole
        rest = of(()).below
        below = rest + round(schedule.runs * schedule.trains * (training.below - rest))
        part = replace(training, below=below, share=schedule.trains, runs=schedule.runs)
        return Stages([(1.0, part)], keeps=keeps, looks=schedule.looks, looked_at=schedule.batches)
    if schedule.observes:  # which tensors train is not known beforehand, how many are
        share = sum(schedule.expected(count)) / count
        part = replace(training, below=round(share * training.below), share=share * training.share)
        return Stages([(1.0, part)], keeps=keeps)
    steps = LOOKED_AT // count * count or count
    spans = timetable.timetable(schedule, layers, training.layers, steps)
    each = Counter[tuple[int, ...]]()
    for span in spans:
        each[span.units] += span.steps
    lowest = [min(span.units, default=layers) for span in spans]
    parts = [(steps_of_it / steps, of(units)) for units, steps_of_it in each.items()]
    return Stages(parts, lowest == sorted(lowest) and not training.embeddings, keeps)


def lowest_layers(plan: Plan, steps: int, seed: int) -> list[tuple[int, int]]:
    """Where the plan's schedule moves it: the lowest trained layer and for how many steps, in their order.

    None where the schedule does not move. Of very many steps, the shares of a thousand.

    Args:
        plan: The plan.
        steps: How many optimizer steps there will be.
        seed: Seed for all random draws.

    Raises:
        ConfigError: There are too few steps for the schedule.
    """
    schedule: Schedule = catalog.build("schedule", plan.schedule)
    if not schedule.moves:
        return []
    schedule.init(len(plan.model), plan.layers, {}, steps, seed)
    few = min(steps, max(LOOKED_AT, len(plan.layers)))
    return timetable.lowest_layers(schedule, len(plan.model), plan.layers, few, seed)


def backward_saved(plan: Plan) -> float | None:
    """The cost saving of S, table 5: the mean, over texts read one by one, of the lowest layer that trains, over L.

    It counts layers, not time. None where the schedule does not move, or is of tensors.
    """
    schedule: Schedule = catalog.build("schedule", plan.schedule)
    if not schedule.moves or schedule.unit != "layer" or schedule.observes:
        return None
    texts = min(max(plan.cost.texts or LOOKED_AT, len(plan.layers)), MOST_TEXTS)
    alone = catalog.build("schedule", Spec(plan.schedule.name, {**plan.schedule.params, **_open(plan.schedule)}))
    lowest = timetable.lowest_layers(alone, len(plan.model), plan.layers, texts, 0)
    return sum(layer * count for layer, count in lowest) / (texts * len(plan.model))


def _open(schedule: Spec) -> dict[str, object]:
    """The ends of stages, which are those of batches and not of texts, left open."""
    return {"ends": ()} if "ends" in schedule.params else {}
