"""What a metric is, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped

Written = str | float | tuple[str, ...]
"""A label as a file of predictions says it."""

Reads = str
"""What of the predictions a metric reads: `classes`, `probabilities`, `values`, `label-sets`, `likelihood` ...

Files of outputs give `text` and, where the data has HumanEval's problems, `code`: one string per row. Their truth is
an array of objects: the tuple of a row's references, or its problem (`metrics/text/`).
"""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a task makes of a model's outputs.

    Attributes:
        written: What is predicted of each row, as a file says it: the name of a class, several, or a number.
        kinds: What metrics read: `classes`, an index `(row,)`; `probabilities` `(row, class)`; `values` `(row,)`;
            `label-sets`, 0 or 1, and `label-probabilities`, both `(row, class)`; `likelihood` `(row, 3)`, the sum of
            -log p over a row's learned tokens, their number, and how many of them are the likeliest of the vocabulary.
        names: The names of the classes; none where there are none.
        confidence: The probability of what is predicted of each row; None where the task gives none.
    """

    written: Sequence[Written]
    kinds: Mapping[Reads, np.ndarray]
    names: tuple[str, ...] = ()
    confidence: Float[np.ndarray, " row"] | None = None

    def __len__(self) -> int:
        return len(self.written)

    def rows(self) -> list[dict[str, Any]]:
        """Each prediction as a JSON object: `label` (or `labels`) and the `probabilities` of all, or `value`."""
        several = "label-sets" in self.kinds
        of_all = self.kinds.get("label-probabilities" if several else "probabilities")
        if of_all is None:
            return [{"value": value} for value in self.written]
        return [
            {"labels" if several else "label": label, "probabilities": dict(zip(self.names, shares, strict=True))}
            for label, shares in zip(self.written, of_all.tolist(), strict=True)
        ]


@runtime_checkable
class Measure(Protocol):
    """How good predictions are, in one number: a frozen object.

    Attributes:
        name: In the catalog and in results.
        reads: What it needs of `Predictions.kinds`.
        higher_is_better: Its direction.
    """

    name: ClassVar[str]
    reads: ClassVar[Reads]
    higher_is_better: ClassVar[bool]

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, "row ..."]) -> float | None:
        """The number; None where it is not defined for these classes.

        Args:
            predictions: Of some rows, with what it reads.
            truth: The labels of these rows as the task reads them.

        Raises:
            DataError: The number is not defined for these rows.
        """
