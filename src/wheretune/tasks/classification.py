"""One of several classes per text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from wheretune.data.cells import Fault
from wheretune.data.columns import Column
from wheretune.errors import DataError
from wheretune.metrics.base import Predictions
from wheretune.tasks.base import Labelled, TextTask
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from wheretune.data.reading import Table
    from wheretune.tasks.base import LabelUse

WHOLE = re.compile(r"-?\d+\.0+")  # a whole number as a data frame writes it


@final
@dataclass(frozen=True)
class Classification(TextTask):
    """One of several classes per text (or pair of texts), by cross-entropy.

    A label is the index of its class. The classes are the labels that occur in the training data: whole numbers by
    their size, all others by their letters.
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro-f1", "f1", "matthews")
    predicts: ClassVar[tuple[str, ...]] = ("classes", "probabilities")
    problem_type: ClassVar[str | None] = "single_label_classification"

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return self.become(Unlabelled).labels(table, classes, use)
        names = Column(cells, class_name)
        known = classes if classes is not None else tuple(sorted(set(names), key=natural))
        index = {name: place for place, name in enumerate(known)}
        if len(known) < 2:
            raise DataError(
                f"{table.source} has one class only ({self.label_name} is {known[0]!r} in every row)",
                "give data with at least two classes, or name another column of labels",
                "label_column",
            )
        return Labelled(self, tuple(index[name] for name in names), known)

    def named(self, cell: object) -> tuple[str, ...]:
        return (class_name(cell),)

    def unlike(self, cell: object, classes: tuple[str, ...] | None) -> Fault | None:
        if classes is None or class_name(cell) in classes:
            return None
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        return Fault(f"the label {class_name(cell)!r}, which the training data has not ({known}),", "label_column")

    def describe(self, classes: Sequence[str]) -> str:
        return f"classification into {len(classes)} classes"

    def outputs(self, classes: Sequence[str]) -> int:
        return len(classes)

    def start(self, labels: Sequence[Any]) -> float | None:
        return None

    def loss(self, logits: Float[Tensor, "batch output"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """-log softmax(z)_y, over the batch."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels)

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """The class of the highest logit, and softmax(z) in fp64."""
        from scipy.special import softmax

        chosen = logits.argmax(1)
        shares = softmax(logits.astype(np.float64), axis=1)
        return Predictions(
            written=[classes[place] for place in chosen.tolist()],
            kinds={"classes": chosen, "probabilities": shares},
            names=classes,
            confidence=shares[np.arange(len(shares)), chosen],
        )

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> list[str]:
        return [classes[label] for label in labels]

    def read_back(self, written: str, classes: Sequence[str]) -> int:
        return list(classes).index(written)


def class_name(cell: object) -> str:
    """A label as a string; 1.0 from a data frame, "1.0" from its CSV and 1 from JSON are the same class."""
    name = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
    return str(int(name.partition(".")[0])) if WHOLE.fullmatch(name) else name


def natural(name: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value and everything else by its letters."""
    return (0, int(name), name) if name.removeprefix("-").isdecimal() else (1, 0, name)
