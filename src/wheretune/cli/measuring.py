"""What `evaluate` measures: some data, and beside it other data and the base model's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.delta.opening import Finetuned
    from wheretune.heads.top import TopModel
    from wheretune.judging import Prediction
    from wheretune.records.runs import Metric


@dataclass(frozen=True)
class Measured:
    """The numbers of one file.

    Attributes:
        source: The file.
        metrics: Of the tuned model.
        predicted: Its prediction of every row.
        base: The metrics of the base model; None where they were not asked for.
    """

    source: str
    metrics: tuple[Metric, ...]
    predicted: tuple[Prediction, ...]
    base: tuple[Metric, ...] | None

    @property
    def uncounted(self) -> int:
        """How many rows are in no metric."""
        return sum(row.reason is not None for row in self.predicted)

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        from wheretune.records.base import to_json

        numbers = {"metrics": self.metrics} | ({} if self.base is None else {"base": self.base})
        plain = {name: [to_json(one) for one in every] for name, every in numbers.items()}
        return {**plain, "rows": len(self.predicted), "not_counted": self.uncounted}

    def table(self, title: str) -> Any:
        """A table of the metrics, the base model's beside them."""
        from wheretune.show.tables import table

        base = {one.name: f"{one.value:.4f}" for one in self.base or ()}
        rows = [
            (
                one.name,
                f"{one.value:.4f}",
                *([base.get(one.name, "")] if self.base is not None else []),
                str(one.n),
                "higher" if one.higher_is_better else "lower",
            )
            for one in self.metrics
        ]
        columns = ("metric", "value", *(["base model"] if self.base is not None else []), "n", "better")
        return table(title, columns, rows, left=("metric", "better"))


def measured(
    tuned: Finetuned,
    data: Sequence[tuple[str, TextData, TextData]],
    names: tuple[str, ...],
    batch_size: int,
    beside_base: bool,
) -> list[Measured]:
    """What a tuned model is worth on some data, and the base model beside it where that is asked for.

    Args:
        tuned: The tuned model.
        data: The name of each file, its rows whose texts can be read, and those whose labels can be, too.
        names: Metrics beside those of the task.
        batch_size: Texts in a batch.
        beside_base: The base model too.
    """
    plain = tuned.untouched() if beside_base else None
    found = [_judged(tuned, texts, labelled, names, batch_size) for _, texts, labelled in data]
    base = [
        None if plain is None else _judged(tuned, texts, labelled, names, batch_size, plain)[0]
        for _, texts, labelled in data
    ]
    return [Measured(one[0], *two, three) for one, two, three in zip(data, found, base, strict=True)]


def _judged(
    tuned: Finetuned,
    texts: TextData,
    labelled: TextData,
    names: tuple[str, ...],
    batch_size: int,
    model: TopModel | None = None,
) -> tuple[tuple[Metric, ...], tuple[Prediction, ...]]:
    """The metrics of a tuned model, or of another with such a head, and the prediction of every row."""
    from wheretune.judging import judged_every
    from wheretune.tasks.base import task_of

    own = task_of(labelled.info).predicts == task_of(tuned.data).predicts  # of raw text beside, its own metrics alone
    return judged_every(*tuned.answered(texts, batch_size, model), labelled, names if own else ())
