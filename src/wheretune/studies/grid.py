"""What is compared, on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wheretune.records.data import DataInfo, DataSpec
    from wheretune.records.runs import Metric, RunResult, TrainSettings

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
