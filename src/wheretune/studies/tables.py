"""The table of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from wheretune.support.files import write_csv, write_text
from wheretune.support.words import count, seconds, short_name

if TYPE_CHECKING:
    from wheretune.studies.grid import Comparison, Row

COLUMNS = (
    "method",
    "layers",
    "test",
    "learning rate",
    "trainable",
    "train time",
    "of it caching",
    "score time",
    "speed-up",
    "memory",
)


def lines(what: Comparison, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A dictionary of plain values a method; what is not known is None, never a number.

    The standard deviation is the sample's, over seeds. Speed-up is full fine-tuning's mean training time over
    the method's, each with its prefix cache and the method's with its scoring pass, over the seeds that both have
    finished.
    """
    full = next((row for row in rows if row.method == "full" and row.results), None)
    return [_line(row, full) | {"asked": len(what.seeds)} for row in rows]


def _line(row: Row, full: Row | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "method": row.method,
        "learning_rate": row.learning_rate,
        "seeds": len(row.results),
    }
    line["failures"] = len(row.failures)
    if not row.results:
        return line
    values = [metric.value for metric in row.metrics]
    chosen = {result.spec.plan.layers for result in row.results}
    peaks = [r.peak_memory_bytes for r in row.results if r.peak_memory_bytes is not None]
    both = set(row.train_seconds) & set(full.train_seconds) if full is not None else set()
    speed_up = None
    if full is not None and both:
        paid = mean(row.train_seconds[seed] for seed in both) + row.score_seconds
        speed_up = mean(full.train_seconds[seed] for seed in both) / paid
    return line | {
        "layers": [list(layers) for layers in sorted(chosen)],
        "metric": row.metrics[0].name,
        "n": row.metrics[0].n,
        "mean": mean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "trainable_parameters": row.results[0].trainable_parameters,
        "train_seconds": mean(row.train_seconds.values()),
        "cache_seconds": mean(result.seconds.get("cache", 0.0) for result in row.results),
        "score_seconds": row.score_seconds,
        "speed_up": speed_up,
        "peak_memory_bytes": max(peaks) if peaks else None,
    }


def cells(line: dict[str, Any]) -> list[str]:
    """A line as a person reads it, under `COLUMNS`."""
    if not line["seeds"]:
        return [line["method"], "–", "failed", f"{line['learning_rate']:g}", *["–"] * (len(COLUMNS) - 4)]
    spread = "" if line["std"] is None else f" ± {line['std']:.4f}"
    missing = f" ({line['seeds']} of {line['asked']} seeds)" if line["seeds"] < line["asked"] else ""
    layers = " ".join(map(str, line["layers"][0])) or "none"
    return [
        line["method"],
        layers if len(line["layers"]) == 1 else "by seed",
        f"{line['metric']} {line['mean']:.4f}{spread}{missing}",
        f"{line['learning_rate']:g}",
        count(line["trainable_parameters"]),
        seconds(line["train_seconds"]),
        seconds(line["cache_seconds"]) if line["cache_seconds"] else "–",
        seconds(line["score_seconds"]) if line["score_seconds"] else "–",
        "–" if line["speed_up"] is None else f"{line['speed_up']:.2f}x",
        "–" if line["peak_memory_bytes"] is None else f"{line['peak_memory_bytes'] / 2**20:.0f} MB",
    ]


def title(what: Comparison, rows: Sequence[Row]) -> str:
    """What the table is about: model, data, n and seeds."""
    n = next((row.metrics[0].n for row in rows if row.results), 0)
    seeds = ", ".join(map(str, what.seeds))
    return (
        f"{short_name(what.model)} on {Path(what.test.source).name}: mean ± standard deviation over seeds {seeds}; "
        f"n = {n}, k = {what.k}, {what.settings.epochs} epochs"
    )


def write_tables(what: Comparison, rows: Sequence[Row], folder: Path) -> None:
    """Writes `table.md` and `results.csv` (one line a run, failed ones left out, split by split)."""
    body = [" | ".join(cells(line)) for line in lines(what, rows)]
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    text = f"{title(what, rows)}\n\n" + "".join(f"| {line} |\n" for line in [*head, *body])
    write_text(folder / "table.md", text)
    columns = (
        "method", "seed", "learning_rate", "layers", "split", "metric", "value", "n", "higher_is_better",
        "trainable_parameters", "train_seconds", "cache_seconds", "score_seconds", "evaluate_seconds",
        "peak_memory_bytes", "steps",
    )  # fmt: skip
    write_csv(folder / "results.csv", _records(rows), columns)


def _records(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for result in row.results:
            for split, metrics in result.metrics.items():
                for metric in metrics:
                    yield {
                        "method": row.method,
                        "seed": result.spec.settings.seed,
                        "learning_rate": row.learning_rate,
                        "layers": " ".join(map(str, result.spec.plan.layers)),
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
