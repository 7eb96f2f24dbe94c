"""Which rows a schedule trains on at which stage (SALF): found by a pass before the training, or at each stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune import automatic, catalog, planning
from wheretune.data.samplers import Arranged, Batches
from wheretune.data.texts import take
from wheretune.data.tokens import mean_length
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec, read_json
from wheretune.schedules.base import OrdersRows, WorkingCopy
from wheretune.scheduling import check_schedule
from wheretune.scorers.eof_layers import EofLayers
from wheretune.scoring.together import gather_together
from wheretune.selectors.base import TakesK
from wheretune.support.files import write_json
from wheretune.support.processes import from_first, world_size
from wheretune.tasks.verbalizing import next_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.model.steps import Follower, Training
    from wheretune.records.model import ModelInfo
    from wheretune.records.plan import Plan
    from wheretune.records.runs import CacheSettings, RunSpec, TrainSettings
    from wheretune.schedules.base import Schedule
    from wheretune.session import Session

EOF_LAYERS = "eof-layers.json"
NEEDS = ("states", "labels", "language-model")
Look = Callable[[Sequence[int]], list[int]]  # from some rows to the eof layer of each, by the model as it is now


@dataclass(frozen=True)
class Order:
    """How the rows are read.

    Attributes:
        plan: The plan, whose schedule knows in which steps its stages end.
        batches: The rows of every batch, in their order; None where the schedule orders none.
        followers: What must remember which rows were read.
        seconds: What finding the order took before the training.
    """

    plan: Plan
    batches: Batches | None = None
    followers: tuple[Follower, ...] = ()
    seconds: float = 0.0

    def arranged(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows, with the batches in which they are to be read."""
        return rows if self.batches is None else Arranged(rows, self.batches)


class Rescan:
    """The batches of a schedule that looks for the eof layers again at each stage, and their memory.

    A stage's rows are found when its first batch is asked for, which must be after the last step of the stage before
    it. As a follower it keeps in the checkpoint which rows have been given out, so that a stopped run does not ask
    again, and other weights, for what it has begun.

    Args:
        schedule: Says which rows a stage takes.
        chosen: The layers of the plan.
        rows: How many there are.
        batch_size: Rows in a batch.
        seed: Seed for what is drawn.
        look: Finds the eof layers of some rows.
        path: Where the eof layers go, each as it was when its row was last looked at.
        layers: How many the model has.
    """

    name = "rescan"

    def __init__(
        self,
        schedule: OrdersRows,
        chosen: Sequence[int],
        rows: int,
        batch_size: int,
        seed: int,
        look: Look,
        path: Path,
        layers: int,
    ) -> None:
        self._schedule, self._chosen, self._size, self._seed = schedule, chosen, batch_size, seed
        self._look, self._path, self._layers = look, path, layers
        self._amounts = schedule.amounts(rows, len(chosen))
        self._eof = [-1] * rows
        self._read: list[int] = []

    def __len__(self) -> int:
        return self.ends()[-1]

    def ends(self) -> tuple[int, ...]:
        """The steps before which the stages end."""
        return tuple(accumulate(-(-amount // self._size) for amount in self._amounts))

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for stage, amount in enumerate(self._amounts):
            if amount and len(self._read) == start:
                self._begin(stage, amount)
            yield from _batches(self._read[start : start + amount], self._size)
            start += amount

    def _begin(self, stage: int, amount: int) -> None:
        left = sorted(set(range(len(self._eof))) - set(self._read))
        for row, layer in zip(left, self._look(left), strict=True):
            self._eof[row] = layer
        found = {row: self._eof[row] for row in left}
        self._read += self._schedule.stage(stage, amount, found, self._chosen[stage], self._seed)
        write_json(self._path, {"layers": self._layers, "eof_layers": self._eof})

    def begin(self, training: Training) -> None:
        self._read = []

    def before_step(self, step: int) -> None:
        return None

    def penalty(self) -> None:
        return None

    def after_step(self, step: int) -> None:
        return None

    def end(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"read": torch.tensor(self._read), "eof_layers": torch.tensor(self._eof)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._read, self._eof = state["read"].tolist(), state["eof_layers"].tolist()


def asks_language(spec: RunSpec) -> bool:
    """Whether a run's schedule, which orders rows by it, or its scorer reads what a language model would say."""
    if isinstance(catalog.build("schedule", (spec.plan or spec).schedule), OrdersRows):
        return True
    return spec.plan is None and "language-model" in catalog.find("scorer", spec.scorer.name).card.needs


def order(
    spec: RunSpec,
    plan: Plan,
    settings: TrainSettings,
    folder: Path,
    session: Session,
) -> Order:
    """The order of a run's rows; `check_fits` and `check_time` have refused what cannot be ordered.

    The eof layers of all rows are found in one forward pass and kept in the run's folder; a stopped run reads them. A
    schedule that looks again at each stage does so while it trains.

    Raises:
        ModelError: The model is no language model.
    """
    schedule = catalog.build("schedule", plan.schedule)
    if not isinstance(schedule, OrdersRows):
        return Order(plan)
    look, count = _look(spec, schedule.variant, session)
    kept = folder / EOF_LAYERS
    if schedule.rescan:
        late = Rescan(schedule, plan.layers, count, settings.batch_size, settings.seed, look, kept, len(plan.model))
        return Order(_ending(plan, late.ends()), late, (late,))
    if not from_first(kept.is_file):
        started = time.perf_counter()
        found = look(range(count))
        took = time.perf_counter() - started
        content: dict[str, Any] = {"layers": len(plan.model), "eof_layers": found, "seconds": took}
        from_first(lambda: write_json(kept, content))
    content = from_first(lambda: read_json(kept))
    stages = schedule.stages(content["eof_layers"], plan.layers, settings.seed)
    batches = [_batches(rows, settings.batch_size) for rows in stages]
    arranged = _ending(plan, tuple(accumulate(map(len, batches))))
    return Order(arranged, [batch for stage in batches for batch in stage], seconds=content.get("seconds", 0.0))


def _ending(plan: Plan, ends: tuple[int, ...]) -> Plan:
    """The plan with the steps before which its stages end."""
    return replace(plan, schedule=Spec(plan.schedule.name, {**plan.schedule.params, "ends": ends}))


def check_fits(spec: RunSpec, opened: Opened, texts: TextData) -> None:
    """Refuses a schedule that cannot serve the tuner, the task or the model of a run, before layers are scored.

    Args:
        spec: The run.
        opened: Its model.
        texts: What it trains on.

    Raises:
        ConfigError: It cannot serve the tuner, or there are too few layers.
        DataError: It asks what a label means, and the labels do not say it.
        ModelError: It makes a smaller copy of the layers, and the model does not bear that.
    """
    decided, model = spec.plan or spec, opened.info
    schedule: Schedule = catalog.build("schedule", decided.schedule)
    if not schedule.moves:
        return
    tuner = catalog.build("tuner", decided.tuner)
    which, count = _known(spec, model) if tuner.needs_layers else ((), 0)
    check_schedule(schedule, tuner, count)
    if isinstance(schedule, OrdersRows):
        _check_words(decided.schedule.name, texts, opened.tokenizer)
    if isinstance(schedule, WorkingCopy):
        candidates = range(len(model)) if which is None else which
        schedule.check_model([model.layers[layer] for layer in candidates])
        schedule.check_runs(opened.stack, candidates)


def check_time(
    spec: RunSpec, model: ModelInfo, rows: Sequence[Mapping[str, Any]], cache: CacheSettings | None = None
) -> None:
    """Refuses settings that a run's schedule cannot bear, before layers are scored, as far as that can be known.

    Args:
        spec: The run.
        model: Its model.
        rows: What it trains on, encoded.
        cache: Where states of the frozen prefix are kept.

    Raises:
        ConfigError: There are too few steps for the layers, or rows are read as the schedule cannot bear.
    """
    schedule: Schedule = catalog.build("schedule", (spec.plan or spec).schedule)
    if not schedule.moves:
        return
    if isinstance(schedule, OrdersRows):
        check(schedule.name, spec.settings)
        if schedule.rescan:
            _check_rescan(spec, cache)
    which, count = _known(spec, model)
    if count is not None:
        steps = automatic.steps_of(spec.settings, len(rows), mean_length(rows))
        schedule.init(len(model), range(count) if which is None else which, {}, steps, spec.settings.seed)


def _known(spec: RunSpec, model: ModelInfo) -> tuple[Sequence[int] | None, int | None]:
    """The layers that a run tunes and how many; None where scores will say that."""
    if spec.plan is not None:
        return spec.plan.layers, len(spec.plan.layers)
    selector = catalog.build("selector", spec.selector)
    if not selector.needs_scores:
        chosen = planning.choose_unscored(model, selector).layers
        return chosen, len(chosen)
    one_number = isinstance(selector, TakesK) and len(model.stacks) == 1
    return None, selector.count(len(model)) if one_number else None


def _check_words(schedule: str, texts: TextData, tokenizer: Any) -> None:
    """Refuses labels of which a language model could not say what they mean.

    Raises:
        DataError: There are none, they are no classes, or two begin with the same token.
    """
    if texts.labels is None or not texts.info.classes:
        raise DataError(
            f"{texts.info.spec.source} has no classes, and the schedule {schedule} asks what a label means",
            "take another schedule",
            "schedule",
        )
    next_tokens(texts, tokenizer)


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


def _check_rescan(spec: RunSpec, cache: CacheSettings | None) -> None:
    """Refuses what stands in the way of looking at all layers while the model trains.

    Raises:
        ConfigError: There is any.
    """
    if cache is not None and cache.where not in ("auto", "off"):
        raise ConfigError(
            "rescan runs all layers of the texts that are left at each stage, and the prefix cache runs none below",
            "leave out the one or the other",
            "cache",
        )
    if world_size() > 1:
        raise ConfigError(
            "rescan gives out rows as it trains, and several processes would have to agree on them",
            "take one process, or leave rescan out",
            "schedule",
        )
    if spec.reading.pooling != "token":
        raise ConfigError(
            f"pooling is {spec.reading.pooling}, and while it trains the last layer makes one token",
            "take token",
            "pooling",
        )


def _look(spec: RunSpec, variant: str, session: Session) -> tuple[Look, int]:
    """What finds the eof layers of some rows by the run's model as it is then, and how many rows there are."""
    opened = session.model(spec.model, language=True)
    texts = session.texts(spec.train, NEEDS)
    scorer = EofLayers(variant)  # type: ignore[arg-type]
    reading = replace(spec.reading, most=None)  # every row has a layer of its own

    def look(places: Sequence[int]) -> list[int]:
        some = take(texts, places)
        found = gather_together(opened, some, [scorer], reading).states[scorer]
        by_row = dict(zip(found.rows, found.layers, strict=True))
        return [by_row[row] for row in some.rows]  # their numbers in the source, of which some may be left out

    return look, len(texts)


def _batches(rows: Sequence[int], size: int) -> list[list[int]]:
    edges = [*range(0, len(rows), size), len(rows)]
    return [list(rows[start:stop]) for start, stop in pairwise(edges)]
