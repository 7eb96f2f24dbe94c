"""CIDEr-D of Vedantam et al. 2015 as COCO's caption scorer and the E2E challenge compute it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.metrics.text.penn import penn_words
from wheretune.metrics.text.words import Words, divided, ngrams

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

ORDERS = (1, 2, 3, 4)
SPREAD = 6.0  # how far lengths may differ: the sigma of the Gaussian
Vector = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class CIDEr:
    """The mean likeness of outputs to their references in n-grams that few rows share, for n = 1 to 4; 0 to 10.

    An n-gram weighs `tf (ln N - ln max(1, df))`: tf in the text, df the rows of which a reference has it, N rows. The
    likeness of an output h to a reference r is `sum min(h, r) r / (|h| |r|) exp(-d^2 / 72)`, d the difference in the
    number of bigrams; it is averaged over n and the references of the row, times 10, and then over rows.

    With one row every weight is 0, and so is the value. An empty output has likeness 0.
    """

    name: ClassVar[str] = "cider"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        rows = list(divided(predictions, truth, penn_words))
        shared = Counter(ngram for _, references in rows for ngram in _of_any(references))
        every = [_likeness(words, references, shared, len(rows)) for words, references in rows]
        return sum(every) / len(every)


def _of_any(references: Sequence[Words]) -> set[tuple[str, ...]]:
    return {ngram for reference in references for n in ORDERS for ngram in ngrams(reference, n)}


def _likeness(words: Words, references: Sequence[Words], shared: Counter[tuple[str, ...]], rows: int) -> float:
    """Of one output to its references, on average."""

    def weighed(text: Words, n: int) -> Vector:
        weights = {ngram: math.log(rows) - math.log(max(1, shared[ngram])) for ngram in ngrams(text, n)}
        return {ngram: times * weights[ngram] for ngram, times in ngrams(text, n).items()}

    total = 0.0
    for reference in references:
        apart = max(0, len(words) - 1) - max(0, len(reference) - 1)
        alike = sum(_cosine(weighed(words, n), weighed(reference, n)) for n in ORDERS) / len(ORDERS)
        total += alike * math.exp(-(apart**2) / (2 * SPREAD**2))
    return 10 * total / len(references)


def _cosine(output: Vector, reference: Vector) -> float:
    """Of two vectors, the output cut to the reference's weights in the product; 0 where one of them is 0."""
    lengths = math.hypot(*output.values()) * math.hypot(*reference.values())
    return (
        sum(min(w, reference.get(ngram, 0)) * reference.get(ngram, 0) for ngram, w in output.items()) / lengths
        if lengths
        else 0.0
    )
