"""NIST of Doddington 2002 over a corpus, as the Python path (`-p`) of the E2E challenge's scorer computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.metrics.text.words import Words, divided, hits, mteval_words, ngrams

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

ORDERS = (1, 2, 3, 4, 5)
BETA = -math.log(0.5) / math.log(1.5) ** 2  # outputs of two thirds of the references' length keep half of the score
Counts = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class NIST:
    """The mean information of the n-grams that a reference has, for n = 1 to 5, times a penalty for brevity.

    `NIST = exp(-b ln^2 min(1, c / r)) sum_n (sum over hits of info) / count_n`, with
    `info(w1..wn) = log2(count(w1..wn-1) / count(w1..wn))` over all references of the corpus, the empty n-gram counted
    once per word. c: words in the outputs; r: the sum over rows of the mean length of its references. The default of
    the E2E scorer, in Perl, has another r (all words over the mean number of references); LoRA's figures are `-p`'s.

    Decided: an order without n-grams counts 0 (official: a division by zero), and so does an empty output (official:
    one empty word).
    """

    name: ClassVar[str] = "nist"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        rows = list(divided(predictions, truth, mteval_words))
        return nist(rows, reference_counts(references for _, references in rows))


def reference_counts(every: Iterable[Sequence[Words]]) -> Counts:
    """How often each n-gram of up to five words stands in all references; the empty one counts every word."""
    counts: Counts = Counter()
    for references in every:
        for reference in references:
            counts[()] += len(reference)
            for n in ORDERS:
                counts.update(ngrams(reference, n))
    return counts


def nist(rows: Iterable[tuple[Words, Sequence[Words]]], counts: Counts) -> float:
    """The score of outputs beside their references, with the information that `counts` gives."""
    information, totals, length = dict.fromkeys(ORDERS, 0.0), dict.fromkeys(ORDERS, 0), 0.0
    for words, references in rows:
        length += sum(map(len, references)) / len(references)
        for n in ORDERS if words else ():
            totals[n] += len(words) - n + 1
            found = hits(words, references, n)
            information[n] += sum(
                times * math.log2(counts[ngram[:-1]] / counts[ngram]) for ngram, times in found.items()
            )
    if totals[1] == 0 or length == 0:
        return 0.0
    penalty = math.exp(-BETA * math.log(min(1.0, totals[1] / length)) ** 2)
    return penalty * sum(information[n] / totals[n] for n in ORDERS if totals[n] > 0)
