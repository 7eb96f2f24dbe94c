"""What a metric is, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped

Reads = str
"""What of the predictions a metric reads. Tasks of today give `classes`, `probabilities` or `values`.

Files of outputs give `text` and, where the data has HumanEval's problems, `code`: one string per row. Their truth is
an array of objects: the tuple of a row's references, or its problem (`metrics/text/`).
"""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a task makes of a model's outputs.

    Attributes:
        written: What is predicted of each row, as a file says it: the name of a class, or a number.
        kinds: What metrics read: `classes`, an index `(row,)`; `probabilities` `(row, class)`; `values` `(row,)`.
        names: The names of the classes; none where there are none.
        confidence: The probability of what is predicted of each row; None where the task gives none.
    """

    written: Sequence[str | float]
    kinds: Mapping[Reads, np.ndarray]
    names: tuple[str, ...] = ()
    confidence: Float[np.ndarray, " row"] | None = None

    def __len__(self) -> int:
        return len(self.written)

    def rows(self) -> list[dict[str, Any]]:
        """Each prediction as a JSON object: `label` and the `probabilities` of all classes, or `value`."""
        if "probabilities" not in self.kinds:
            return [{"value": value} for value in self.written]
        return [
            {"label": label, "probabilities": dict(zip(self.names, shares, strict=True))}
            for label, shares in zip(self.written, self.kinds["probabilities"].tolist(), strict=True)
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
