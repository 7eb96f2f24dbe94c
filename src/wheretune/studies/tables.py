"""The table of a comparison, as a person reads it, as markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.studies.statistics import lines
from wheretune.support.files import write_csv, write_text
from wheretune.support.words import count, counted, rate_in_words, seconds, short_name

if TYPE_CHECKING:
    from wheretune.studies.grid import Compared, Row
    from wheretune.studies.statistics import Line

TABLE, RESULTS = "table.md", "results.csv"
UNKNOWN = "–"
COLUMNS = (
    "method",
    "layers",
    "test",
    "learning rate",
    "trainable",
    "train time",
    "caching (part of train time)",
    "score time",
    "speed-up",
    "memory",
)
CSV_COLUMNS = (
    "method", "seed", "learning_rate", "layers", "split", "metric", "value", "n", "higher_is_better",
    "trainable_parameters", "train_seconds", "cache_seconds", "score_seconds", "evaluate_seconds", "peak_memory_bytes",
    "steps",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """A line as a person reads it, under `COLUMNS`."""
    taken = rate_in_words(line.learning_rate)
    if line.mean is None or line.trainable_parameters is None or line.train_seconds is None:
        return [line.method, UNKNOWN, "failed", taken, *[UNKNOWN] * (len(COLUMNS) - 4)]
    spread = "" if line.std is None else f" ± {line.std:.4f}"
    missing = f" ({line.seeds} of {line.asked} seeds)" if line.seeds < line.asked else ""
    return [
        line.method,
        (" ".join(map(str, line.layers[0])) or "none") if len(line.layers) == 1 else "by seed",
        f"{line.metric} {line.mean:.4f}{spread}{missing}",
        taken,
        count(line.trainable_parameters),
        seconds(line.train_seconds),
        seconds(line.cache_seconds) if line.cache_seconds else UNKNOWN,
        seconds(line.score_seconds) if line.score_seconds else UNKNOWN,
        UNKNOWN if line.speed_up is None else f"{line.speed_up:.2f}x",
        UNKNOWN if line.peak_memory_bytes is None else f"{line.peak_memory_bytes / 2**20:.0f} MB",
    ]


def title(compared: Compared) -> str:
    """What the table is about: model, data, n and seeds."""
    what = compared.what
    n = next((row.metrics[0].n for row in compared.rows if row.results), 0)
    seeds = ", ".join(map(str, what.seeds))
    of = f"seed {seeds}" if len(what.seeds) == 1 else f"mean ± standard deviation over seeds {seeds}"
    return (
        f"{short_name(what.model.name)} on {Path(what.test.source).name}: {of}; "
        f"n = {n}, k = {what.k}, {counted(what.settings.epochs, 'epoch')}"
    )


def markdown(compared: Compared) -> str:
    """The title and the table."""
    body = [" | ".join(cells(line)) for line in lines(compared)]
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    return f"{title(compared)}\n\n" + "".join(f"| {line} |\n" for line in [*head, *body])


def write_tables(compared: Compared, folder: Path) -> None:
    """Writes `results.csv` (one line per run, split and metric; failed runs left out) and `table.md`."""
    records = (record for row in compared.rows for record in _records(row))
    write_csv(folder / RESULTS, records, CSV_COLUMNS)
    write_text(folder / TABLE, markdown(compared))


def _records(row: Row) -> Iterator[dict[str, Any]]:
    for result in row.results:
        for split, metrics in result.metrics.items():
            for metric in metrics:
                yield {
                    "method": row.method,
                    "seed": result.spec.settings.seed,
                    "learning_rate": result.learning_rate,
                    "layers": result.plan.model.named(result.plan.layers, " "),
                    "split": split,
                    "metric": metric.name,
                    "value": metric.value,
                    "n": metric.n,
                    "higher_is_better": metric.higher_is_better,
                    "trainable_parameters": result.trainable_parameters,
                    "train_seconds": result.seconds["train"],
                    "cache_seconds": result.seconds.get("cache", 0.0),
                    "score_seconds": row.score_seconds,
                    "evaluate_seconds": result.seconds["evaluate"],
                    "peak_memory_bytes": result.peak_memory_bytes,
                    "steps": result.steps,
                }
