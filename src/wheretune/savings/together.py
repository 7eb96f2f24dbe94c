"""All that a training need not compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wheretune.data.batches import spread
from wheretune.errors import ConfigError
from wheretune.model.freezing import lowest_trained, outside, trains
from wheretune.records.runs import CacheSettings, check_cache
from wheretune.savings.one_token import one_token
from wheretune.savings.packing import packing
from wheretune.savings.prefix_cache.deciding import DECIDED, CacheReport
from wheretune.savings.prefix_cache.following import Rise, follow, rises
from wheretune.savings.prefix_cache.job import CacheJob
from wheretune.savings.prefix_cache.layout import Layout
from wheretune.savings.prefix_cache.making import cached
from wheretune.support.processes import writes

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.model.steps import Follower
    from wheretune.records.data import Collate
    from wheretune.records.runs import TrainSettings
    from wheretune.savings.packing import WithHead


@dataclass(frozen=True)
class SavingsReport:
    """What a training does not compute.

    Attributes:
        cache: What was decided about the prefix cache.
        one_token: Whether the last layer computes only the tokens that are read.
        collate: Makes a batch of rows for the training, and has cached states read ahead for it.
        several: Whether these are several per text.
        followers: What keeps the cache up where a schedule moves the lowest trained layer; for the training, after the
            schedule's own.
    """

    cache: CacheReport
    one_token: bool
    collate: Collate
    several: bool = False
    followers: tuple[Follower, ...] = ()

    @property
    def description(self) -> dict[str, str]:
        """In words, for the result of a run."""
        read = "only the tokens before those that are learned" if self.several else "the token that is read alone"
        last = read if self.one_token else "all tokens"
        return {"prefix cache": str(self.cache), "last layer": last}


@contextlib.contextmanager
def saving(
    stack: LayerStack,
    weights_hash: str,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path,
    cache: CacheSettings | None = None,
    lowest: Sequence[tuple[int, int]] = (),
) -> Iterator[SavingsReport]:
    """Inside, training computes only what it needs: the frozen prefix once, and of the last layer what the head reads.

    What is frozen is told by which parameters require a gradient.

    Args:
        stack: The layers of a `HeadedModel`, or of another model with such a head.
        weights_hash: SHA-256 over the weights of its base model; a cache on disk is known by it.
        rows: Encoded rows.
        collate: Makes a batch of rows.
        settings: How they are trained on.
        folder: The run's own.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.
        lowest: Where a schedule moves the lowest trained layer: which it is and for how many steps, in their order.

    Yields:
        What is left out.

    Raises:
        ConfigError: The settings ask for packed texts, and the model would read across them.
        ModelError: They do, and it takes no positions.
    """
    model = cast("WithHead", stack.model)  # no isinstance: Python 3.12 looks past what nn.Module registers
    cache = cache or CacheSettings()
    check_cache(settings, cache)
    if settings.frozen_dropout:
        cache = CacheSettings("off")
    if stack.split:
        check_not_packed(settings)
        off = CacheReport("off", "an encoder-decoder has two stacks of layers")
        yield SavingsReport(off, False, collate, model.several)
        return
    few = collate(spread(rows))
    with contextlib.ExitStack() as inside:
        if settings.packed:
            _check_packed(rows)
            inside.enter_context(packing(model, few))
        # one residual per text does not fit a row of all texts
        all_tokens = settings.all_tokens or (settings.packed and not model.several)
        reader = model if model.several else None
        cut = not all_tokens and inside.enter_context(one_token(stack, few, reader))
        layout = Layout(
            lowest_trained(stack), len(stack), stack.hidden_size, all_layers=model.all_layers, all_tokens=model.several
        )
        job = CacheJob(stack, layout, rows, collate, settings.cache_dtype, reader)
        report, followers = inside.enter_context(_prefix(job, weights_hash, settings.epochs, cache, folder, lowest))
        # the loader's own processes cannot read for this one
        ahead = report.where != "off" and not settings.trainer_args.get("dataloader_num_workers")
        yield SavingsReport(report, cut, job.collate_next if ahead else collate, model.several, followers)


def check_not_packed(settings: TrainSettings) -> None:
    """Refuses to pack the texts of an encoder-decoder.

    Raises:
        ConfigError: The settings ask for it.
    """
    if settings.packed:
        raise ConfigError("the texts of an encoder-decoder are not packed", "leave packing out", "packed")


def _check_packed(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to pack texts that have images: a model that sees finds these by the places of whole rows.

    Raises:
        ConfigError: There are some.
    """
    if any("images" in row for row in rows):
        raise ConfigError("texts with images cannot be packed", "do not pack them", "packed")


@contextlib.contextmanager
def _prefix(
    job: CacheJob,
    weights_hash: str,
    epochs: int,
    cache: CacheSettings,
    folder: Path,
    lowest: Sequence[tuple[int, int]],
) -> Iterator[tuple[CacheReport, tuple[Follower, ...]]]:
    """The prefix cache, and what keeps it up where a schedule moves the lowest trained layer upwards."""
    if rises(lowest) and not any(trains(part) for part in outside(job.stack)):
        report, following = follow(job, Rise.of(lowest), epochs, cache, folder)
        try:
            yield report, () if following is None else (following,)
        finally:
            if following is not None:
                following.end()
        if writes():
            (folder / DECIDED).unlink(missing_ok=True)
        return
    with cached(job, weights_hash, epochs, cache, folder) as report:
        if job.layout.first == 0 and report.where == "off" and cache.where != "off" and len(lowest) > 1:
            why = "the schedule trains the lowest layers now and then, and nothing stays frozen"
            report = replace(report, reason=why)
        yield report, ()
