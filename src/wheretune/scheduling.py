"""What a schedule makes of a plan before anything trains: its tuner, its stages for the cost, what is saved."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wheretune import catalog
from wheretune.cost.training import Stages
from wheretune.errors import ConfigError
from wheretune.records.base import Spec, read_json
from wheretune.records.scores import load_scores
from wheretune.schedules import timetable
from wheretune.schedules.base import WorkingCopy

if TYPE_CHECKING:
    from pathlib import Path

    from wheretune.cost.training import Training
    from wheretune.records.plan import Plan
    from wheretune.schedules.base import OrdersRows, Schedule
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


def check_schedule(schedule: Schedule, tuner: Tuner, chosen: int | None = None) -> None:
    """Refuses a schedule that cannot serve a tuner, before a model is opened.

    Args:
        schedule: The schedule.
        tuner: The tuner.
        chosen: How many layers the plan has; where that is not known yet, as many as it takes.

    Raises:
        ConfigError: It cannot.
    """
    if schedule.moves and tuner.needs_every_step:
        raise ConfigError(
            f"the tuner {tuner.name} needs its layers at every step, and the schedule {schedule.name} freezes some",
            "take another tuner, or the schedule static",
            "schedule",
        )
    most = sys.maxsize if tuner.needs_layers else 0
    schedule.check(most if chosen is None else chosen, Spec.of(scheduled(tuner, schedule)))


def check_compilable(schedule: Spec) -> None:
    """Refuses to compile layers of which a schedule freezes parts: each choice of these would be compiled anew.

    Raises:
        ConfigError: It does so.
    """
    unit = catalog.find("schedule", schedule.name).unit
    if unit != "layer":
        raise ConfigError(
            f"the schedule {schedule.name} freezes by the {unit}, and layers would be compiled anew for each choice",
            "leave compile out, or take a schedule of whole layers",
            "compile",
        )


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


# --- the rows of a schedule that orders them ---------------------------------------------------------


@dataclass(frozen=True)
class StageRows:
    """What a stage reads.

    Attributes:
        layer: The lowest that trains in it.
        texts: How many it reads.
        matching: How many of these have an eof layer that is no higher; the others are drawn at random.
    """

    layer: int
    texts: int
    matching: int


def eof_layers_of(path: Path) -> tuple[int, list[int]]:
    """How many layers a model has, and the eof layer of every text, from what a run or a scorer found.

    Args:
        path: The `eof-layers.json` of a run, or scores by semantic-deviation. These say how many texts have which eof
            layer and not which texts, which is all that amounts follow from.

    Raises:
        ConfigError: There is no such file, or it holds neither.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("eof_layers"), list):
        layers, found = content.get("layers"), content["eof_layers"]
        if not isinstance(layers, int):
            raise ConfigError(f"{path} does not say how many layers there are", "take what a run has written")
        if not found or not all(isinstance(layer, int) and 0 <= layer < layers for layer in found):
            raise ConfigError(f"{path} names a layer that is not there, or no text", "take what a run has written")
        return layers, found
    for scores in load_scores(path):
        if scores.deviations is not None:
            counts = scores.deviations.eof_layers
            return len(counts), [layer for layer, count in enumerate(counts) for _ in range(count)]
    raise ConfigError(
        f"{path} holds no eof layers of texts",
        "give scores by semantic-deviation, or the eof-layers.json of a run",
        "scores_file",
    )


def filled(schedule: OrdersRows, eof_layers: Sequence[int], chosen: Sequence[int], seed: int) -> list[StageRows]:
    """What every stage reads.

    Args:
        schedule: The schedule.
        eof_layers: Of every text.
        chosen: The layers of the plan, ascending.
        seed: Seed for what is drawn.
    """
    stages = schedule.stages(eof_layers, chosen, seed)
    return [
        StageRows(layer, len(rows), sum(eof_layers[row] <= layer for row in rows))
        for layer, rows in zip(chosen, stages, strict=True)
    ]
