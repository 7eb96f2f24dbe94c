"""A prefix cache that follows the lowest trained layer up, where a schedule moves it (LIFT and its like).

The cache of a stage is made from the one before it: that one still feeds while the next is computed, so only the layers
that have frozen since run, once per text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wheretune.errors import OutputError
from wheretune.model.freezing import lowest_trained
from wheretune.savings.prefix_cache.checking import all_agree
from wheretune.savings.prefix_cache.deciding import DECIDED, PLACED, SPARE, CacheReport, pointless
from wheretune.savings.prefix_cache.feeding import PrefixCache
from wheretune.savings.prefix_cache.machine import Machine
from wheretune.savings.prefix_cache.making import OTHER, made
from wheretune.support.files import write_json
from wheretune.support.log import log
from wheretune.support.processes import from_first, writes
from wheretune.support.words import counted, size

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.steps import Training
    from wheretune.records.runs import CacheSettings
    from wheretune.savings.prefix_cache.job import CacheJob

WORTH = 1.2  # how many times what making takes it must save


@dataclass(frozen=True)
class Rise:
    """How the lowest layer that trains goes up.

    Attributes:
        lowest: It, in every span of steps, in their order.
        mean: Its mean over steps.
    """

    lowest: Sequence[int]
    mean: float

    @classmethod
    def of(cls, lowest: Sequence[tuple[int, int]]) -> Rise:
        """From the lowest layer of every span and the steps it has."""
        steps = sum(count for _, count in lowest)
        return cls([layer for layer, _ in lowest], sum(layer * count for layer, count in lowest) / steps)


def rises(lowest: Sequence[tuple[int, int]]) -> bool:
    """Whether the lowest layer goes up, and never down again."""
    layers = [layer for layer, _ in lowest]
    return layers == sorted(layers) and len(set(layers)) > 1


class FollowingCache:
    """A follower that moves a prefix cache up as soon as the lowest trained layer has.

    It comes after the schedule's own follower, whose flags it reads. Its seconds are those of the training.

    Args:
        job: Of the lowest layer that ever trains.
        folder: The run's own, for a cache on disk; None for one in memory.
        machine: What says what time it is.
    """

    name = "prefix cache"

    def __init__(self, job: CacheJob, folder: Path | None, machine: Machine) -> None:
        self._job, self._folder, self._machine = job, folder, machine
        self._cache: PrefixCache | None = None
        self._first = 0
        self._path: Path | None = None

    def begin(self, training: Training) -> None:
        self._first = 0

    def before_step(self, step: int) -> None:
        first = lowest_trained(self._job.stack)
        if first != self._first:
            self._first = first
            self._move(replace(self._job, layout=replace(self._job.layout, first=first)))

    def penalty(self) -> None:
        return None

    def after_step(self, step: int) -> None:
        return None

    def end(self) -> None:
        """Takes the cache off, and its files away."""
        if self._cache is not None:
            self._cache.undo()
        if self._path is not None and writes():
            shutil.rmtree(self._path, ignore_errors=True)
        self._cache = self._path = None

    def state(self) -> dict[str, Tensor]:
        """Nothing: what a stage reads follows from the weights."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        return None

    def _move(self, job: CacheJob) -> None:
        first = job.layout.first
        path = None if self._folder is None or first == 0 else self._folder / f"prefix-below-{first}"
        try:
            if path is not None and writes():
                shutil.rmtree(path, ignore_errors=True)  # of a sitting that was killed: other weights may lie below
            store = None if first == 0 else made(job, path, self._machine)  # the cache before feeds meanwhile
        except OutputError as error:
            log.warning("the prefix cache ends below layer %d: %s", first, error.problem)
            store = None
        self.end()
        if store is None:
            return
        self._cache, self._path = PrefixCache(job.stack, job.layout, job.ahead), path
        self._cache.fill(store, job.spans())
        if not all_agree(self._cache, job):
            log.warning("no prefix cache below layer %d: %s", first, OTHER)
            self.end()


def follow(
    job: CacheJob, rise: Rise, epochs: int, settings: CacheSettings, folder: Path, machine: Machine | None = None
) -> tuple[CacheReport, FollowingCache | None]:
    """What was decided about a cache that follows a schedule, and the follower that keeps it up.

    `auto` takes memory, if what the layers below cost in all epochs is well above one pass through them; what a stopped
    run decided stands.

    Args:
        job: Of the lowest layer that ever trains.
        rise: How the lowest layer goes up.
        epochs: How often every text is read.
        settings: Where, and how much.
        folder: The run's own.
        machine: What says how much is free; the real one by default.
    """
    machine = machine or Machine()
    report = from_first(lambda: _report(job, rise, epochs, settings, folder, machine))
    if report.where == "off":
        return report, None
    return report, FollowingCache(job, folder if report.where == "disk" else None, machine)


def _report(
    job: CacheJob, rise: Rise, epochs: int, settings: CacheSettings, folder: Path, machine: Machine
) -> CacheReport:
    top = replace(job, layout=replace(job.layout, first=rise.lowest[-1]))
    refused = pointless(top, epochs, settings)
    if refused is not None:
        return CacheReport("off", refused)
    decided = folder / DECIDED
    if settings.where != "auto":
        report = _decide(top, rise, epochs, settings, folder, machine)
    elif decided.is_file():
        before = json.loads(decided.read_text(encoding="utf-8"))
        report = CacheReport(before["where"], before["reason"], top.size if before["where"] != "off" else 0, job.kind)
    else:
        report = _decide(top, rise, epochs, settings, folder, machine)
        with suppress(OutputError):  # where nothing can be written no resumed run will look
            write_json(decided, {"where": report.where, "reason": report.reason})
    return report


def _decide(
    job: CacheJob, rise: Rise, epochs: int, settings: CacheSettings, folder: Path, machine: Machine
) -> CacheReport:
    saved, spent = epochs * rise.mean, rise.lowest[-1]
    if settings.where == "auto" and saved < WORTH * spent:
        return CacheReport(
            "off",
            f"it would not pay: {spent} layers per text to make, {saved:.1f} not to run in {counted(epochs, 'epoch')}",
        )
    where = "disk" if settings.where == "disk" or settings.folder is not None else "memory"
    free = machine.free_disk(folder) if where == "disk" else machine.free_memory()
    allowed = int(SPARE * free) if settings.limit is None else min(settings.limit, free)
    needed = 2 * job.size  # the one before feeds while the next is made
    if needed > allowed:
        why = f"{size(needed)} are more than the {size(allowed)} it may take {PLACED[where]}"
        return CacheReport("off", why)
    stages = counted(len(rise.lowest), "stage")
    reason = f"it follows the schedule up in {stages}, each made from the one before while training"
    return CacheReport("memory" if where == "memory" else "disk", reason, job.size, job.kind)
