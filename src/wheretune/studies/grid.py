"""What a comparison is, and which runs it takes: a study and the results so far say what is to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wheretune.errors import ConfigError
from wheretune.recipes.base import FULL, Method
from wheretune.records.base import Spec, record
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import RunResult, TrainSettings
from wheretune.support.words import rate_in_words

if TYPE_CHECKING:
    from wheretune.records.runs import Metric


@record
class Comparison:
    """What is compared, on what.

    Attributes:
        model: Which model, and how it is opened.
        train: The data that is scored and trained on.
        test: The data the table is about.
        methods: What is set side by side, each under a name of its own.
        validation: The data the learning rate is chosen on; needed where there are several.
        k: Layers to tune, for the methods that choose and do not say so themselves; None: `ratio`, or a quarter,
            rounded up.
        ratio: The same as a share of the model's layers.
        seeds: One run per seed.
        learning_rates: Candidates, tried with the first seed for each method on its own; None is what suits each plan.
        reference: Name of the method that every speed-up is measured against; where it is not among the methods, no
            speed-up is known.
        scorer: Of the methods that choose by scores and name no scorer.
        head: Of the methods that name none; None takes the task's own.
        settings: What all runs share; its seed and learning rate are replaced.
        metrics: Names of metrics beside those of the task.
        executor: How the runs are spread; it changes no result.
    """

    model: ModelSpec
    train: DataSpec
    test: DataSpec
    methods: tuple[Method, ...]
    validation: DataSpec | None = None
    k: int | None = None
    ratio: float | None = None
    seeds: tuple[int, ...] = (0, 42, 100)
    learning_rates: tuple[float | None, ...] = (None,)
    reference: str = FULL.name
    scorer: Spec = field(default_factory=lambda: Spec("cosine-centrality"))
    head: Spec | None = None
    settings: TrainSettings = field(default_factory=TrainSettings)
    metrics: tuple[str, ...] = ()
    executor: Spec = field(default_factory=lambda: Spec("serial"))

    def __post_init__(self) -> None:
        names = tuple(method.name for method in self.methods)
        _each_once("methods", names)
        _each_once("seeds", self.seeds)
        _each_once("learning_rates", self.learning_rates)
        _check_folders(names)
        if len(self.learning_rates) > 1 and self.validation is None:
            raise ConfigError("several learning rates need data to choose by", "give validation data", "validation")
        if self.reference not in (*names, FULL.name):
            remedy = f"take one of {', '.join(names)}"
            raise ConfigError(f"the reference {self.reference} is no method of the comparison", remedy, "reference")
        if self.k is not None and self.ratio is not None:
            raise ConfigError("k and ratio both say how many layers", "give the one or the other", "ratio")
        for rate in self.learning_rates:
            for seed in self.seeds:
                replace(self.settings, learning_rate=rate, seed=seed)  # refuses what no run can have


def _each_once(name: str, given: Sequence[object]) -> None:
    words = name.replace("_", " ")
    if not given:
        raise ConfigError(f"there are no {words}", "give at least one", name)
    for one in given:
        if given.count(one) > 1:
            raise ConfigError(f"the {words} name {one} twice", "name each once", name)


def _check_folders(names: Sequence[str]) -> None:
    for name in names:
        if not name or "/" in name or name in (".", ".."):
            raise ConfigError(f"a method cannot be called {name!r}", "give it a name that a folder can have", "methods")


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        method: The name of its method.
        learning_rate: Its peak; None takes what suits the plan.
        seed: Seed for all random draws.
    """

    method: str
    learning_rate: float | None
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, lr {rate_in_words(self.learning_rate)}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result.

    Attributes:
        folder: Where it worked, and where its traceback is.
        why: The kind of the error and its message.
    """

    folder: str
    why: str


Results = Mapping[Job, RunResult | Failure]


def next_jobs(what: Comparison, results: Results) -> list[Job]:
    """The runs that can be started now, in the order of the methods; none once the comparison is finished.

    Each method is tried with the first seed at every learning rate; then its other seeds run at the best of these.
    """
    return [job for method in what.methods for job in _jobs(what, method.name, results) if job not in results]


def _jobs(what: Comparison, method: str, results: Results) -> list[Job]:
    """All runs of a method that are known to be needed."""
    tried = _tried(what, method)
    if len(tried) > 1 and any(job not in results for job in tried):
        return tried
    rate = best_rate(what, method, results)
    return [*tried, *(Job(method, rate, seed) for seed in what.seeds[1:])]


def _tried(what: Comparison, method: str) -> list[Job]:
    return [Job(method, rate, what.seeds[0]) for rate in what.learning_rates]


def searched(what: Comparison, method: str, results: Results) -> dict[float | None, Metric]:
    """By learning rate, the main metric on the validation data with the first seed; empty where there is one rate."""
    if len(what.learning_rates) == 1:
        return {}
    outcomes = ((job.learning_rate, results.get(job)) for job in _tried(what, method))
    return {rate: one.metrics["validation"][0] for rate, one in outcomes if isinstance(one, RunResult)}


def best_rate(what: Comparison, method: str, results: Results) -> float | None:
    """The learning rate that did best on the validation data, the lower of equals; the first where none finished."""
    found = searched(what, method, results)

    def goodness(rate: float | None) -> tuple[float, float]:
        metric = found[rate]
        return (metric.value if metric.higher_is_better else -metric.value, -(rate or 0.0))

    return max(found, key=goodness, default=what.learning_rates[0])


@dataclass(frozen=True)
class Row:
    """One method's line: its runs at the learning rate that was chosen for it.

    Attributes:
        method: Its name.
        learning_rate: The candidate that did best on the validation data; None: each plan's own.
        searched: By learning rate, the main metric on the validation data; empty where there was one rate.
        results: One per seed that finished.
        score_seconds: What the scoring pass took, which several scorers may have shared, for a method that chooses by
            scores; else 0.
        failures: By folder, why a run failed.
    """

    method: str
    learning_rate: float | None
    searched: dict[float | None, float]
    results: tuple[RunResult, ...]
    score_seconds: float
    failures: dict[str, str]

    @property
    def learning_rate_taken(self) -> float | None:
        """The learning rate that its runs took; None where it is each plan's own and none has finished."""
        return self.results[0].learning_rate if self.results else self.learning_rate

    @property
    def metrics(self) -> list[Metric]:
        """The main metric on the test data, one per seed."""
        return [result.metrics["test"][0] for result in self.results]

    @property
    def train_seconds(self) -> dict[int, float]:
        """By seed, with making the prefix cache; scoring left out."""
        return {result.spec.settings.seed: result.training_seconds for result in self.results}


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        what: What was compared, with `k` settled.
        rows: One per method, in the order asked for.
    """

    what: Comparison
    rows: tuple[Row, ...]


def rows(what: Comparison, results: Results, score_seconds: Mapping[str, float]) -> tuple[Row, ...]:
    """What came of every method.

    Args:
        what: The comparison.
        results: Of all its runs.
        score_seconds: By name of a method, what its scores took.
    """
    return tuple(_row(what, method.name, results, score_seconds.get(method.name, 0.0)) for method in what.methods)


def _row(what: Comparison, method: str, results: Results, score_seconds: float) -> Row:
    rate = best_rate(what, method, results)
    jobs: Sequence[Job] = _jobs(what, method, results)
    finished = [results.get(Job(method, rate, seed)) for seed in what.seeds]
    failed = [one for job in jobs if isinstance(one := results.get(job), Failure)]
    return Row(
        method=method,
        learning_rate=rate,
        searched={rate: metric.value for rate, metric in searched(what, method, results).items()},
        results=tuple(one for one in finished if isinstance(one, RunResult)),
        score_seconds=score_seconds,
        failures={one.folder: one.why for one in failed},
    )
