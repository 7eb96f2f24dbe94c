"""ROUGE-L of Lin 2004 as COCO's caption scorer and the E2E challenge compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.metrics.text.penn import penn_words
from wheretune.metrics.text.words import Words, divided

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

BETA = 1.2  # how much recall weighs


@dataclass(frozen=True)
class RougeL:
    """The mean over rows of F from the longest common subsequence with a reference, recall weighing 1.2; 0 to 1.

    `P = max LCS / |output|`, `R = max LCS / |reference|`, `F = (1 + 1.44) P R / (R + 1.44 P)` on Penn Treebank words.
    The two maxima are taken separately, over all references of the row. Google's rouge-score: other words, beta 1.

    Decided: an output without words has F 0, and so has every output where no reference has a word.
    """

    name: ClassVar[str] = "rouge-l"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        every = [rouge_l(words, references) for words, references in divided(predictions, truth, penn_words)]
        return sum(every) / len(every)


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """F of one output."""
    common = [(longest_common(words, reference), len(reference)) for reference in references if words and reference]
    precision = max((length / len(words) for length, _ in common), default=0.0)
    recall = max((length / size for length, size in common), default=0.0)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def longest_common(first: Words, second: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)  # of what was read of `first`, beside each beginning of `second`
    for word in first:
        before = row[:]
        for i, other in enumerate(second):
            row[i + 1] = before[i] + 1 if word == other else max(before[i + 1], row[i])
    return row[-1]
