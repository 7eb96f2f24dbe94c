"""Which rows a schedule trains on at which stage (SALF): found once, on the untuned model, before the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog, planning
from wheretune.data.samplers import Arranged
from wheretune.data.tokens import mean_length
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec, read_json
from wheretune.schedules.base import OrdersRows
from wheretune.scorers.eof_layers import EofLayers
from wheretune.scoring.together import gather_together
from wheretune.selectors.base import TakesK
from wheretune.support.files import write_json
from wheretune.support.processes import from_first

if TYPE_CHECKING:
    from wheretune.records.plan import Plan
    from wheretune.records.runs import RunSpec, TrainSettings
    from wheretune.schedules.base import Schedule
    from wheretune.session import Session

EOF_LAYERS = "eof-layers.json"
NEEDS = ("states", "labels", "language-model")


@dataclass(frozen=True)
class Order:
    """How the rows are read.

    Attributes:
        plan: The plan, whose schedule knows in which steps its stages end.
        batches: The rows of every batch, in their order; None where the schedule orders none.
    """

    plan: Plan
    batches: list[list[int]] | None = None

    def arranged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows, with the batches in which they are to be read."""
        return rows if self.batches is None else Arranged(rows, self.batches)


def asks_language(spec: RunSpec) -> bool:
    """Whether a run's schedule, which orders rows by it, or its scorer reads what a language model would say."""
    if isinstance(catalog.build("schedule", (spec.plan or spec).schedule), OrdersRows):
        return True
    return spec.plan is None and "language-model" in catalog.find("scorer", spec.scorer.name).card.needs


def order(spec: RunSpec, plan: Plan, settings: TrainSettings, folder: Path, session: Session) -> Order:
    """The order of a run's rows.

    The eof layers of all rows are found in one forward pass and kept in the run's folder; a stopped run reads them.

    Raises:
        ConfigError: The settings read rows twice, or in batches of another kind.
        DataError: There are no labels, or two classes begin with the same token.
        ModelError: The model is no language model.
    """
    schedule = catalog.build("schedule", plan.schedule)
    if not isinstance(schedule, OrdersRows):
        return Order(plan)
    check(plan.schedule.name, settings)
    kept = folder / EOF_LAYERS
    if not from_first(kept.is_file):
        found = {"eof_layers": _eof_layers(spec, schedule.variant, session)}
        from_first(lambda: write_json(kept, found))
    stages = schedule.stages(from_first(lambda: read_json(kept))["eof_layers"], plan.layers, settings.seed)
    batches = [_batches(rows, settings.batch_size) for rows in stages]
    ends = tuple(accumulate(map(len, batches)))
    arranged = replace(plan, schedule=Spec(plan.schedule.name, {**plan.schedule.params, "ends": ends}))
    return Order(arranged, [batch for stage in batches for batch in stage])


def check_time(
    schedule: Spec, selector: Spec, layers: int, settings: TrainSettings, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Refuses, before layers are scored, a training that a schedule cannot serve, as far as that can be known.

    Args:
        schedule: When layers train.
        selector: What chooses them; of one that does not say how many, nothing is known yet.
        layers: How many layers the model has.
        settings: How it trains.
        rows: The encoded rows.

    Raises:
        ConfigError: There are too few steps for the layers, or rows are read as the schedule cannot bear.
    """
    made: Schedule = catalog.build("schedule", schedule)
    if isinstance(made, OrdersRows):
        check(schedule.name, settings)
    chooses = catalog.build("selector", selector)
    chosen = None if chooses.needs_scores else chooses.select(np.zeros(layers))
    if isinstance(chooses, TakesK):
        chosen = range(chooses.count(layers))
    if made.moves and chosen is not None:
        made.init(layers, chosen, {}, planning.steps_of(settings, len(rows), mean_length(rows)), settings.seed)


def check(schedule: str, settings: TrainSettings) -> None:
    """Refuses settings by which a row would be read twice, or a step would mix stages.

    Raises:
        ConfigError: There are any.
    """
    for name, fits, remedy in (
        ("epochs", settings.epochs == 1, "give 1"),
        ("max_steps", settings.max_steps is None, "leave it out"),
        ("gradient_accumulation_steps", settings.gradient_accumulation_steps == 1, "give 1 and a larger batch"),
        ("tokens_per_batch", settings.tokens_per_batch is None, "give a number of texts (batch_size)"),
        ("packed", not settings.packed, "leave it out"),
    ):
        if not fits:
            value = getattr(settings, name)
            raise ConfigError(
                f"{name.replace('_', ' ')} is {value}, and the schedule {schedule} reads every row once, in batches of "
                "one stage",
                remedy,
                name,
            )


def _eof_layers(spec: RunSpec, variant: str, session: Session) -> list[int]:
    opened = session.model(spec.model, language=True)
    texts = session.texts(spec.train, NEEDS)
    if texts.labels is None or not texts.info.classes:
        raise DataError(
            f"{spec.train.source} has no classes, and the schedule salf asks what a label means",
            "take another schedule",
        )
    scorer = EofLayers(variant)  # type: ignore[arg-type]
    found = gather_together(opened, texts, [scorer], spec.reading).states[scorer]
    by_row = dict(zip(found.rows, found.layers, strict=True))
    return [by_row[row] for row in texts.rows]  # their numbers in the source, of which some may be left out


def _batches(rows: Sequence[int], size: int) -> list[list[int]]:
    edges = [*range(0, len(rows), size), len(rows)]
    return [list(rows[start:stop]) for start, stop in pairwise(edges)]
