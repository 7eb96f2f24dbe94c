"""Numbers of a comparison: means and deviations over seeds, and speed-ups over the reference."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from wheretune.records.base import record, to_json

if TYPE_CHECKING:
    from wheretune.studies.grid import Compared, Row


@record
class Line:
    """One method in numbers; what is not known is None.

    Attributes:
        method: Its name.
        learning_rate: The one that was chosen for it, or that suits its plan.
        asked: Seeds that were asked for.
        seeds: Seeds that finished.
        failures: Runs that failed.
        layers: The layers that were tuned, each choice once.
        metric: The task's main metric.
        n: Rows of test data it is of.
        mean: Its mean over seeds.
        std: Its sample standard deviation over seeds; None for one seed.
        trainable_parameters: Counted on the model that was trained.
        train_seconds: Mean over seeds, with making the prefix cache; scoring left out.
        cache_seconds: Mean over seeds of making the prefix cache.
        score_seconds: What the scores took.
        speed_up: The reference's time over the method's, each with its prefix cache and its scores, over the seeds that
            both have finished.
        peak_memory_bytes: The highest over seeds.
    """

    method: str
    learning_rate: float | None
    asked: int
    seeds: int
    failures: int
    layers: tuple[tuple[int | str, ...], ...] = ()
    metric: str | None = None
    n: int | None = None
    mean: float | None = None
    std: float | None = None
    trainable_parameters: int | None = None
    train_seconds: float | None = None
    cache_seconds: float | None = None
    score_seconds: float | None = None
    speed_up: float | None = None
    peak_memory_bytes: int | None = None


def lines(compared: Compared) -> list[Line]:
    """One line per method, in the order asked for."""
    what, rows = compared.what, compared.rows
    reference = next((row for row in rows if row.method == what.reference), None)
    return [_line(row, reference, len(what.seeds)) for row in rows]


def _line(row: Row, reference: Row | None, asked: int) -> Line:
    if not row.results:
        return Line(row.method, row.learning_rate_taken, asked, 0, len(row.failures))
    values = [metric.value for metric in row.metrics]
    peaks = [one.peak_memory_bytes for one in row.results if one.peak_memory_bytes is not None]
    return Line(
        method=row.method,
        learning_rate=row.learning_rate_taken,
        asked=asked,
        seeds=len(row.results),
        failures=len(row.failures),
        layers=tuple(sorted({one.plan.model.as_named(one.plan.layers) for one in row.results})),
        metric=row.metrics[0].name,
        n=row.metrics[0].n,
        mean=mean(values),
        std=stdev(values) if len(values) > 1 else None,
        trainable_parameters=row.results[0].trainable_parameters,
        train_seconds=mean(row.train_seconds.values()),
        cache_seconds=mean(one.seconds.get("cache", 0.0) for one in row.results),
        score_seconds=row.score_seconds,
        speed_up=None if reference is None else speed_up(row, reference),
        peak_memory_bytes=max(peaks, default=None),
    )


def speed_up(row: Row, reference: Row) -> float | None:
    """The reference's mean time over the method's, caching and scoring counted; None where they share no seed."""
    both = set(row.train_seconds) & set(reference.train_seconds)
    if not both:
        return None

    def paid(one: Row) -> float:
        return mean(one.train_seconds[seed] for seed in both) + one.score_seconds

    return paid(reference) / paid(row)


def as_json(line: Line) -> dict[str, Any]:
    """A line as a JSON object; of a method of which no run finished, without what only a result says."""
    return {key: value for key, value in to_json(line).items() if line.seeds or value not in (None, [])}
