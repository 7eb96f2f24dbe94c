"""Everything below the lowest trained layer is computed once and cached."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.errors import OutputError
from wheretune.savings.prefix_cache.checking import all_agree
from wheretune.savings.prefix_cache.deciding import SPARE, CacheReport, Places, decide
from wheretune.savings.prefix_cache.feeding import PrefixCache
from wheretune.savings.prefix_cache.idle_weights import set_aside
from wheretune.savings.prefix_cache.job import compute
from wheretune.savings.prefix_cache.machine import Machine
from wheretune.savings.prefix_cache.store import InMemory, OnDisk, seconds_or_fault, write_states
from wheretune.support.files import digest, sweep, write
from wheretune.support.log import log
from wheretune.support.processes import from_first, gathered, local_size, part, writes
from wheretune.support.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.records.runs import CacheSettings
    from wheretune.savings.prefix_cache.job import CacheJob
    from wheretune.savings.prefix_cache.store import Store
    from wheretune.savings.prefix_cache.texts import Key

OTHER = "fed from a cache, this model gives other states"


@contextmanager
def cached(
    job: CacheJob, weights_hash: str, epochs: int, settings: CacheSettings, folder: Path, machine: Machine | None = None
) -> Iterator[CacheReport]:
    """Inside, the job's texts are fed to the lowest trained layer from a cache, if that pays; then it is taken off.

    What a stopped run decided, and a cache on disk that it left, are taken again, if that cache is whole and of the
    same model, texts and settings.

    Args:
        job: What is to be cached, of a model whose frozen parameters require no gradient and whose frozen layers stay
            in eval mode (`exclude_frozen`).
        weights_hash: SHA-256 over the weights of the base model, or of all that lies below the lowest trained layer.
        epochs: How often every text is read.
        settings: Where, and how much.
        folder: The run's own.
        machine: What says how much is free, and what time it is; the real one by default.

    Yields:
        What was decided, and why.
    """
    machine = machine or Machine()
    own = settings.folder is None or not settings.keep
    places = _places(job, weights_hash, settings, folder, own)
    started = machine.now()
    with ExitStack() as after:
        report = from_first(lambda: _decided(job, epochs, settings, places, machine, own))
        if report.where != "off":
            cache = PrefixCache(job.stack, job.layout, job.ahead)
            after.callback(cache.undo)
            report = _fill(cache, job, report, places.cache if report.where == "disk" else None, machine)
        if report.where != "off":
            room = int(SPARE * machine.free_disk(folder)) // local_size()
            after.enter_context(set_aside(job.stack, job.layout.first, folder, room))
            cache.hits = cache.misses = 0
        yield replace(report, seconds=report.seconds + machine.now() - started if report.bytes else 0.0)
        if report.where != "off" and cache.misses:
            log.warning("%d of %d batches were not in the prefix cache", cache.misses, cache.misses + cache.hits)
    if writes():
        places.decided.unlink(missing_ok=True)
    if own and writes():
        for left in [places.store] if places.store != folder else folder.glob("prefix-*"):
            shutil.rmtree(left, ignore_errors=True)


def _decided(
    job: CacheJob, epochs: int, settings: CacheSettings, places: Places, machine: Machine, own: bool
) -> CacheReport:
    """What is decided; what a killed process left half done in a folder of one's own is swept out."""
    report = decide(job, epochs, settings, places, machine)
    if report.where != "off" and own:
        sweep(places.store)
    return report


def _places(job: CacheJob, weights_hash: str, settings: CacheSettings, folder: Path, own: bool) -> Places:
    """Where this cache lies; one that will be removed where no other run that shares the folder finds it."""
    store = folder if settings.folder is None else settings.folder
    if settings.folder is not None and own:
        store /= f"prefix-{digest(str(folder.resolve()))[:16]}"
    return Places(folder, store, store / f"prefix-{job.digest(weights_hash)}")


def _fill(cache: PrefixCache, job: CacheJob, report: CacheReport, path: Path | None, machine: Machine) -> CacheReport:
    """Fills the cache, or takes it from disk.

    A cache that does not fit the disk, or whose states the model does not bear, is taken off at once.
    """
    spans = job.spans()
    if path is not None and from_first(path.is_dir):
        took = _found(cache, job, path, spans)
        if took is not None:
            return replace(report, reason=f"found whole in {path}", seconds=took)
        from_first(lambda: shutil.rmtree(path))
    try:
        cache.fill(made(job, path, machine), spans)
        if all_agree(cache, job):
            return report
        wrong = OTHER
    except OutputError as error:
        wrong = error.problem
    cache.undo()
    if path is not None and writes():
        shutil.rmtree(path, ignore_errors=True)
    log.warning("no prefix cache: %s", wrong)
    return CacheReport("off", wrong)


def _found(cache: PrefixCache, job: CacheJob, path: Path, spans: dict[Key, tuple[int, int]]) -> float | None:
    """Takes a cache that lies on disk, and returns the seconds it took to make; None if it is of no use."""
    found = from_first(lambda: seconds_or_fault(path, job.size))
    if isinstance(found, float):
        cache.fill(OnDisk.open(path, job.layout.width, job.dtype), spans)
        if all_agree(cache, job):
            return found
        cache.fill(None, {})
        found = OTHER
    log.warning("the prefix cache in %s is made again: %s", path, found)
    return None


def made(job: CacheJob, path: Path | None, machine: Machine) -> Store:
    """Computes all states into memory or, given a path, into files there.

    Several processes share the computing in memory; files are the first one's.
    """
    batches = job.batches()
    with progress() as shown:
        each = _shared(job, batches) if path is None else (compute(job, batch) for batch in batches)
        computed = shown.track(each, len(batches), description=f"caching what lies below layer {job.layout.first}")
        if path is None:
            return InMemory.of(computed, job.total, job.layout.width, job.dtype)
        from_first(lambda: write(path, lambda draft: write_states(draft, computed, job.dtype, machine)))
    return OnDisk.open(path, job.layout.width, job.dtype)


def _shared(job: CacheJob, batches: Sequence[list[dict[str, Any]]]) -> Iterator[Tensor]:
    """The states of every batch, in their order; of several processes each computes every so-manieth."""
    number, size = part()
    for start in range(0, len(batches), size):
        some = batches[start : start + size]
        own = compute(job, some[number]).to("cpu", job.dtype) if number < len(some) else None
        yield from (states for states in gathered(own) if states is not None)
