"""Any number of labels per text."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from wheretune.data.cells import Fault, kind, plain, written_kind
from wheretune.errors import ConfigError, DataError
from wheretune.metrics.base import Predictions
from wheretune.tasks.base import Labelled, TextTask
from wheretune.tasks.classification import class_name, natural
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from wheretune.data.reading import Table
    from wheretune.tasks.base import LabelUse

HALF = 0.5  # the threshold where no held-out data says another


@final
@dataclass(frozen=True)
class MultiLabel(TextTask):
    """Any number of labels per text, each by itself: sigmoid, and binary cross-entropy.

    A row's labels are a list of names, which may be empty; with a separator, a string. The label of a row is, for each
    class, whether it is among them. A class is predicted where its probability reaches its threshold.

    Attributes:
        label_separator: What stands between the labels of a row where they are written as one string.
        thresholds: One per class, chosen on the validation data; 0.5 where there is none.
    """

    label_separator: str | None = None
    thresholds: tuple[float, ...] = ()
    name: ClassVar[str] = "multi-label"
    metrics: ClassVar[tuple[str, ...]] = ("f1-micro", "f1-macro", "subset-accuracy")
    predicts: ClassVar[tuple[str, ...]] = ("label-sets", "label-probabilities")
    problem_type: ClassVar[str | None] = "multi_label_classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_separator is not None and not self.label_separator.strip(" "):
            raise ConfigError("the label separator is blank", "give what stands between two labels", "label_separator")

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return Unlabelled(**self.columns).labels(table, classes, use)
        if classes is None and _multi_hot([self._parts(cell) for cell in cells]):
            raise DataError(
                f"{table.source} has vectors of 0 and 1 as {self.label_name} (multi-hot), which name no labels",
                "write the names: [name for name, one in zip(names, vector) if one]",
                "label_column",
            )
        sets = [set(self.named(cell)) for cell in cells]
        known = classes if classes is not None else tuple(sorted(set().union(*sets), key=natural))
        if classes is None and (len(known) < 2 or all(one == sets[0] for one in sets)):
            said = f"{known[0]!r} is the only label" if len(known) == 1 else "all rows have the same labels"
            raise DataError(
                f"{table.source} teaches nothing: {said if known else 'no row has a label'}",
                "give data with two labels or more, in rows that differ",
                "label_column",
            )
        return Labelled(self, tuple(tuple(int(name in one) for name in known) for one in sets), known)

    def cell_fault(self, cell: object) -> Fault | None:
        if cell is None and self.label_separator is None:
            return Fault(f"no {self.label_name}", "label_column")
        parts = self._parts(cell)
        if parts is None:
            what = written_kind(cell) or ("a string" if isinstance(cell, str) else "a number")
            return Fault(f"{what} where a list of labels belongs", "label_separator")
        others = [kind(part) or "a gap" for part in parts if part is None or kind(part) is not None]
        return Fault(f"{others[0]} among the labels", "label_column") if others else None

    def named(self, cell: object) -> tuple[str, ...]:
        return tuple(class_name(part) for part in self._parts(cell) or ())

    def _parts(self, cell: object) -> list[object] | None:
        """What stands in a row's list of labels; None where it is no list.

        A list that a data frame has written out (`['a', 'b']`) is one, too.
        """
        if isinstance(cell, str) and self.label_separator is not None:
            return [part.strip() for part in cell.split(self.label_separator) if part.strip()]
        if cell is None:
            return []
        if isinstance(cell, str) and written_kind(cell) == "a list":
            try:
                cell = ast.literal_eval(cell)
            except (ValueError, SyntaxError):  # an array of NumPy's: [1 0]
                return list(str(cell)[1:-1].split())
        listed: Any = cell
        return [plain(part) for part in listed] if kind(cell) == "a list" else None

    def unlike(self, cell: object, classes: tuple[str, ...] | None) -> Fault | None:
        new = [] if classes is None else [name for name in self.named(cell) if name not in classes]
        if not new or classes is None:
            return None
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        return Fault(f"the label {new[0]!r}, which the training data has not ({known}),", "label_column")

    def describe(self, classes: Sequence[str]) -> str:
        return f"any of {len(classes)} labels"

    def outputs(self, classes: Sequence[str]) -> int:
        return len(classes)

    def start(self, labels: Sequence[Any]) -> float | None:
        return None

    def loss(self, logits: Float[Tensor, "batch output"], labels: Int[Tensor, "batch output"]) -> Float[Tensor, ""]:
        """-y log sigmoid(z) - (1 - y) log(1 - sigmoid(z)), over the batch and the classes."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """The classes whose sigmoid(z), in fp64, reaches their threshold."""
        from scipy.special import expit

        shares = expit(logits.astype(np.float64))
        sets = (shares >= np.array(self.thresholds or [HALF] * shares.shape[1])).astype(int)
        kinds = {"label-sets": sets, "label-probabilities": shares}
        return Predictions(written=self.written(sets.tolist(), classes), kinds=kinds, names=classes)

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(name for name, one in zip(classes, label, strict=False) if one) for label in labels]

    def read_back(self, written: Sequence[str], classes: Sequence[str]) -> list[int]:
        return [int(name in written) for name in classes]

    def calibrated(self, logits: Callable[[], Float[np.ndarray, "row output"]], labels: Sequence[Any]) -> MultiLabel:
        """The same with the thresholds that are best on held-out rows; see `best_threshold`."""
        shares, truth = self.predict(logits(), ()).kinds["label-probabilities"], np.array(labels)
        found = (best_threshold(shares[:, i], truth[:, i]) for i in range(shares.shape[1]))
        return replace(self, thresholds=tuple(found))


def best_threshold(shares: Float[np.ndarray, " row"], truth: Int[np.ndarray, " row"]) -> float:
    """The threshold by which F1 of one class is highest.

    Decided: one half-way between two neighbouring probabilities, of equally good ones the nearest to 0.5; 0.5 itself
        where it is as good as any, or where no row has the class.
    """
    highest = np.argsort(-shares, kind="stable")
    ordered, right = np.append(shares[highest], 0.0), np.append(0, np.cumsum(truth[highest]))
    apart = ordered[1:] < ordered[:-1]
    apart[-1] = True  # all rows
    taken = np.append(np.flatnonzero(apart) + 1, (shares >= HALF).sum())
    cuts = np.append(((ordered[1:] + ordered[:-1]) / 2)[apart], HALF)
    f1 = 2 * right[taken] / np.maximum(taken + truth.sum(), 1)
    good = cuts[f1 >= f1.max() - 1e-12]
    return float(good[np.abs(good - HALF).argmin()])


def _multi_hot(every: Sequence[Iterable[object] | None]) -> bool:
    """Whether all rows are vectors of 0 and 1, and not lists of labels that happen to be called so."""
    vectors = [[str(part) for part in parts] for parts in every if parts is not None]
    try:
        numbers = [[float(part) for part in vector] for vector in vectors]
    except ValueError:
        return False
    same = len({len(vector) for vector in numbers}) == 1 and len(numbers[0]) > 1
    return same and all(set(one) <= {0.0, 1.0} for one in numbers) and any(len(set(one)) < len(one) for one in numbers)
