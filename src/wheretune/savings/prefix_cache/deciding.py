"""Where a prefix cache is to be, or that there is to be none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from wheretune.errors import OutputError
from wheretune.model.forward import token_first
from wheretune.savings.prefix_cache.job import compute
from wheretune.support.files import PARTIAL, write_json
from wheretune.support.log import log
from wheretune.support.words import counted, seconds
from wheretune.support.words import size as size_in_words

if TYPE_CHECKING:
    from wheretune.records.runs import CacheSettings
    from wheretune.savings.prefix_cache.job import CacheJob
    from wheretune.savings.prefix_cache.machine import Machine

SPARE = 0.5  # of the free memory or disk that a cache may take
IMAGES = ("images", "pixel_values")  # what encoded rows call theirs, and those of a training loop of the user's own
DECIDED = "prefix-decided.json"  # what `auto` decided, for a run that is stopped and goes on
PLACES: tuple[Literal["memory", "disk"], ...] = ("memory", "disk")  # as `auto` prefers them
PLACED = {"memory": "in memory", "disk": "on disk"}


@dataclass(frozen=True)
class CacheReport:
    """What was decided about a cache, and what it took.

    Attributes:
        where: `memory`, `disk` or `off`.
        reason: Why.
        bytes: Its size; 0 where there is none.
        dtype: Precision of what it holds.
        seconds: What deciding and making took, also when it was made by an earlier run and kept.
    """

    where: Literal["memory", "disk", "off"]
    reason: str
    bytes: int = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.where == "off":
            return f"none: {self.reason}"
        took = f", made in {seconds(self.seconds)}" if self.seconds else ""
        return f"{size_in_words(self.bytes)} of {self.dtype} {PLACED[self.where]}{took}: {self.reason}"


@dataclass(frozen=True)
class Places:
    """Where the files of a cache are.

    Attributes:
        run: The run's own folder.
        store: The folder that holds caches on disk.
        cache: The folder of this very cache in it.
    """

    run: Path
    store: Path
    cache: Path

    @property
    def decided(self) -> Path:
        """What `auto` decided."""
        return self.run / DECIDED


def decide(job: CacheJob, epochs: int, settings: CacheSettings, places: Places, machine: Machine) -> CacheReport:
    """Where the cache is to be, or that there is to be none; what a stopped run decided stands."""
    refused = pointless(job, epochs, settings)
    if refused is not None:
        return CacheReport("off", refused)
    decided = places.decided
    if settings.where == "auto" and decided.is_file():
        before = json.loads(decided.read_text(encoding="utf-8"))
        return CacheReport(before["where"], before["reason"], job.size if before["where"] != "off" else 0, job.kind)
    if settings.where != "memory" and places.cache.is_dir():
        return CacheReport("disk", "it is there", job.size, job.kind)
    report = _fitting(job, settings, places.store, machine)
    if settings.where == "auto":
        if report.where != "off":
            report = _worth_it(job, epochs, report, places.store, machine)
        with suppress(OutputError):  # where nothing can be written no resumed run will look
            write_json(decided, {"where": report.where, "reason": report.reason})
    elif report.where == "off":
        log.warning("no prefix cache: %s", report.reason)
    return report


def pointless(job: CacheJob, epochs: int, settings: CacheSettings) -> str | None:
    """Why there is to be no cache wherever it would fit; None where one may be of use."""
    if settings.where == "off":
        return "as asked"
    if any(name in row for row in job.rows for name in IMAGES):
        return "there are images, and a text is known by its tokens alone"
    if job.layout.first == 0:
        return "nothing frozen lies below the lowest trained layer"
    if settings.where == "auto" and epochs < 2:
        return "every text is read once only"
    if token_first(job.stack):
        return "the layers of this family hold their texts side by side"
    if not job.keeps_tokens():
        return "a batch holds other tokens than its rows, and a cache is known by them"
    return None


def _fitting(job: CacheJob, settings: CacheSettings, store: Path, machine: Machine) -> CacheReport:
    """Where a cache fits."""
    asked: list[Literal["memory", "disk"]] = [where for where in PLACES if settings.where in (where, "auto")]
    if settings.where == "auto" and settings.folder is not None:
        asked = ["disk"]
    refused = []
    for where in asked:
        free = machine.free_memory() if where == "memory" else machine.free_disk(store)
        allowed = int(SPARE * free) if settings.limit is None else min(settings.limit, free)
        if job.size <= allowed:
            return CacheReport(where, f"of {size_in_words(free)} free", job.size, job.kind)
        needed, may = size_in_words(job.size), size_in_words(allowed)
        refused.append(f"{needed} are more than the {may} it may take {PLACED[where]}")
    return CacheReport("off", "; ".join(refused))


def _worth_it(job: CacheJob, epochs: int, report: CacheReport, store: Path, machine: Machine) -> CacheReport:
    """Measures, on a batch of middling length, whether reading states is faster than computing them."""
    batches = job.batches()
    batch = batches[len(batches) // 2]
    share = sum(len(row["input_ids"]) for row in batch) / sum(len(row["input_ids"]) for row in job.rows)

    def timed(work: Callable[[], Any]) -> float:
        started = machine.now()
        work()
        return (machine.now() - started) / share

    states = compute(job, batch).cpu()  # also warms up
    computing = timed(lambda: compute(job, batch).cpu())  # the store is not on the GPU, and a copy waits for the GPU
    if report.where == "memory":
        writing = reading = timed(states.clone)
    else:
        try:
            store.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".prefix-speed{PARTIAL}", dir=store) as scratch:
                file = Path(scratch) / "states"
                writing = timed(lambda: _flushed(file, states.numpy().tobytes()))
                reading = timed(file.read_bytes)
        except OSError as error:
            return CacheReport("off", f"nothing can be written in {store} ({error.strerror or error})")
    measured = f"{seconds(computing)} to compute, {seconds(reading)} to read, {counted(epochs, 'epoch')}"
    if not pays(computing, writing, reading, epochs):
        return CacheReport("off", f"it would not pay {PLACED[report.where]} ({measured})")
    return replace(report, reason=f"{measured}; {report.reason}")


def pays(computing: float, writing: float, reading: float, epochs: int) -> bool:
    """Whether computing once, writing once and reading in every epoch takes less than computing in every epoch."""
    return computing + writing + epochs * reading < epochs * computing


def _flushed(file: Path, content: bytes) -> None:
    """Writes a file and drops it from the system's own cache, so that reading it is reading the disk."""
    with file.open("wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
