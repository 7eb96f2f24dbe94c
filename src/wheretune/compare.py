"""Many runs side by side: the same data, batches and budget for every method, several seeds, and a table.

A folder holds `compare.json` (what is compared), `scores.json`, `runs/METHOD/lr-RATE/seed-SEED/` with one
`result.json` a finished run, and at the end `table.md` and `results.csv`. Started again, it runs what is missing.
"""

import dataclasses
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from wheretune import catalog
from wheretune.data import load_data
from wheretune.errors import ConfigError
from wheretune.files import claim, write_csv, write_text
from wheretune.planning import AnySelector, plan
from wheretune.prefix import CacheSettings
from wheretune.probing import suited
from wheretune.run import AnyScorer, check_model, layer_count, run, score_model
from wheretune.selectors import check_selector
from wheretune.show.tables import count, seconds, short_name
from wheretune.training import check_settings
from wheretune.types import (
    DataInfo,
    DataSpec,
    LayerScores,
    Metric,
    RunResult,
    RunSpec,
    Spec,
    TrainSettings,
    load_scores,
    save_scores,
    to_json,
)

SPEC, SCORES, PROBE, FAILURE = "compare.json", "scores.json", "probe", "failed.txt"
OWNED = (SPEC, SCORES, PROBE, "runs", "table.md", "results.csv")
GROWING = ("methods", "seeds", "learning_rates")  # what may be added to a comparison that has begun


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what.

    Attributes:
        model: A local folder or a hub name.
        train: The data that is scored and trained on.
        validation: The data the learning rate is chosen on; needed where there are several.
        test: The data the table is about.
        methods: As `catalog.method` reads them.
        k: Layers to tune, for the methods that choose.
        seeds: A run a seed.
        learning_rates: Candidates, tried with the first seed for each method on its own.
        scorer: Of the methods that name none.
        head: Name of the head.
        settings: What all share; its seed and learning rate are replaced.
    """

    model: str
    train: DataSpec
    validation: DataSpec | None
    test: DataSpec
    methods: tuple[str, ...]
    k: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    scorer: str
    head: str
    settings: TrainSettings


@dataclass(frozen=True)
class Data:
    """What every run of a comparison reads, by content."""

    train: DataInfo
    validation: DataInfo | None
    test: DataInfo


@dataclass(frozen=True)
class Row:
    """One method's line: its runs at the learning rate that was chosen for it.

    Attributes:
        method: Its name.
        learning_rate: The one that did best on the validation split.
        searched: The validation metric of every candidate.
        results: One a seed.
        score_seconds: What the scoring pass took, which several scorers may have shared, for a method that needs
            scores; else 0.
        failures: Runs that failed, with the last line of their traceback.
    """

    method: str
    learning_rate: float
    searched: dict[float, float]
    results: tuple[RunResult, ...]
    score_seconds: float
    failures: dict[str, str]

    @property
    def metrics(self) -> list[Metric]:
        """The test split's main metric, a seed each."""
        return [result.metrics["test"][0] for result in self.results]

    @property
    def train_seconds(self) -> dict[int, float]:
        """By seed, with making the prefix cache; scoring left out."""
        return {result.spec.settings.seed: result.training_seconds for result in self.results}


def compare(what: Comparison, folder: Path, cache: CacheSettings | None = None) -> list[Row]:
    """Runs what is missing and returns a row a method, in the order asked for.

    A run that fails keeps its traceback in `failed.txt` and does not end the comparison; it is tried again
    when the comparison is started again.

    Args:
        what: What is compared.
        folder: Where it is kept.
        cache: Where runs keep the states of their frozen prefix.

    Raises:
        ConfigError: A method is unknown, or there are several learning rates and no validation data.
        OutputError: The folder holds another comparison.
    """
    if len(what.learning_rates) > 1 and what.validation is None:
        raise ConfigError("several --learning-rates need data to choose by", "give --validation")
    for rate in what.learning_rates:
        for seed in what.seeds:
            check_settings(replace(what.settings, learning_rate=rate, seed=seed))
    layers = layer_count(what.model)
    check_model(what.model, what.train.max_length)
    for name in what.methods:  # all that can be known to be wrong is said before anything is written
        selector = _selector(name, what.k, layers, what.seeds[0])
        if selector is not None:
            check_selector(selector, layers)
    wanted = {name: _scorer(name, what) for name in what.methods}
    train = load_data(what.train).info
    data = Data(
        train,
        None if what.validation is None else load_data(what.validation, like=train).info,
        load_data(what.test, like=train).info,
    )
    shared = {key: value for key, value in dataclasses.asdict(what).items() if key not in GROWING}
    claim(folder / SPEC, shared | {"data": dataclasses.asdict(data)})  # what was begun may only go on as it was
    scores = _scores(what, list(dict.fromkeys(wanted.values())), folder)
    return [_row(name, what, scores[wanted[name]], data, folder, cache) for name in what.methods]


def _scorer(name: str, what: Comparison) -> AnyScorer:
    """What a method scores with; one that needs no scores still needs the list of layers."""
    method = catalog.method(name)
    if not method.needs_scores:
        return catalog.scorer(catalog.FREE)
    scorer: AnyScorer = suited(catalog.scorer(method.scorer or what.scorer), method.tuner)
    return scorer


def _scores(what: Comparison, wanted: Sequence[AnyScorer], folder: Path) -> dict[AnyScorer, LayerScores]:
    """The scores by every scorer that a method needs; those that are missing share one pass."""
    every = load_scores(folder / SCORES) if (folder / SCORES).is_file() else []

    def found(scorer: AnyScorer) -> LayerScores | None:
        spec = to_json(Spec.of(scorer))
        return next(
            (s for s in every if s.scorer.name == spec["name"] and spec["params"].items() <= s.scorer.params.items()),
            None,
        )

    missing = [scorer for scorer in wanted if found(scorer) is None]
    if missing:
        every += score_model(what.model, what.train, missing, folder / PROBE, batch_size=2 * what.settings.batch_size)
        save_scores(every, folder / SCORES)
        every = load_scores(folder / SCORES)
    return {scorer: scores for scorer in wanted if (scores := found(scorer)) is not None}


def _selector(name: str, k: int, layers: int, seed: int) -> AnySelector | None:
    method = catalog.method(name)
    if method.selector is None:
        return None
    if method.k is not None:
        k = method.k
    return catalog.selector(method.selector, k=layers if method.every_layer else k, seed=seed)


def _row(
    name: str, what: Comparison, scores: LayerScores, data: Data, folder: Path, keeping: CacheSettings | None
) -> Row:
    failures: dict[str, str] = {}
    head, tuner = catalog.head(Spec(what.head)), catalog.method(name).tuner

    @cache
    def one(rate: float, seed: int) -> RunResult | None:
        where = folder / "runs" / name / f"lr-{rate:g}" / f"seed-{seed}"
        settings = replace(what.settings, learning_rate=rate, seed=seed)
        try:
            selector = _selector(name, what.k, len(scores.layers), seed)
            made = plan(scores, selector, tuner=tuner, head=head)
            spec = RunSpec(made, data.train, data.validation, data.test, settings)
            result = run(spec, where, f"{name}, lr {rate:g}, seed {seed}", keeping)
            (where / FAILURE).unlink(missing_ok=True)
            return result
        except Exception as error:
            where.mkdir(parents=True, exist_ok=True)
            write_text(where / FAILURE, traceback.format_exc())
            failures[str(where)] = f"{type(error).__name__}: {error}"
            return None

    first = what.seeds[0]
    searched: dict[float, float] = {}
    best = what.learning_rates[0]
    if len(what.learning_rates) > 1:
        tried = {rate: one(rate, first) for rate in what.learning_rates}
        searched = {rate: r.metrics["validation"][0].value for rate, r in tried.items() if r is not None}
        best = max(searched, key=lambda rate: (searched[rate], -rate), default=best)
    results = [one(best, seed) for seed in what.seeds]
    return Row(
        method=name,
        learning_rate=best,
        searched=searched,
        results=tuple(result for result in results if result is not None),
        score_seconds=scores.seconds if catalog.method(name).needs_scores else 0.0,
        failures=failures,
    )


# --- the table ----------------------------------------------------------------------------------

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
