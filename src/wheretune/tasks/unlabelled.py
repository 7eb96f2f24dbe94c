"""Texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, final

from wheretune.errors import DataError
from wheretune.tasks.base import Labelled, TextTask

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped
    from torch import Tensor

    from wheretune.data.reading import Table
    from wheretune.metrics.base import Predictions
    from wheretune.tasks.base import LabelUse


@final
@dataclass(frozen=True)
class Unlabelled(TextTask):
    """Texts without labels: what needs none can score by them, and nothing can be trained on them."""

    name: ClassVar[str] = "unlabelled"
    metrics: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[tuple[str, ...]] = ()
    problem_type: ClassVar[str | None] = None

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        if use == "required":
            raise DataError(f"{table.source} is read without labels, and they are needed", "name another task", "task")
        return Labelled(self)

    def describe(self, classes: Sequence[str]) -> str:
        return "no labels"

    def outputs(self, classes: Sequence[str]) -> int:
        """One, so that a plan can be priced before it is known what will be learned."""
        return 1

    def start(self, labels: Sequence[Any]) -> float | None:
        return None

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, " batch"]) -> NoReturn:
        raise _nothing_to_learn()

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        raise _nothing_to_learn()

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> NoReturn:
        raise _nothing_to_learn()

    def read_back(self, written: Any, classes: Sequence[str]) -> NoReturn:
        raise _nothing_to_learn()


def _nothing_to_learn() -> DataError:
    return DataError("texts without labels teach nothing that could be predicted", "give data with labels", "task")
