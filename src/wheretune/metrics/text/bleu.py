"""BLEU of Papineni et al. 2002 over a corpus, as the scorer of the E2E challenge and mteval-v13a compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.metrics.text.words import divided, hits, mteval_words
from wheretune.support.log import log

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

ORDERS = (1, 2, 3, 4)
NO_HIT, NO_NGRAM = 1e-15, 1e-9  # what stands for a count of 0 above and below the fraction line


@dataclass(frozen=True)
class BLEU:
    """The geometric mean of the shares of 1- to 4-grams that a reference has, times a penalty for brevity; 0 to 1.

    `BLEU = min(1, exp(1 - r / c)) (prod_n hits_n / count_n)^(1/4)` over the whole corpus: c words in the outputs, r
    in the references closest to them in length (of two as close, the shorter).

    It is sacrebleu's `BLEU(lowercase=True, smooth_method="none")` wherever every output has three words or more and
    every order has a hit; the tests hold it against sacrebleu. Outside of that the two differ, so it is computed here.

    As the official scorer has it, an output of L words adds L - n + 1 n-grams: below zero where L < n - 1.

    Decided:
    An empty output adds no n-gram, and the length of its shortest reference to r: it counts as wrong. (The official
    scorer reads it as one empty word, whose negative counts raise the score, also above 1.) Where very short outputs
    still lift the value above 1, which means nothing, it is 0, and a warning says so.
    """

    name: ClassVar[str] = "bleu"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        found, counts, closest = dict.fromkeys(ORDERS, 0), dict.fromkeys(ORDERS, 0), 0
        for words, references in divided(predictions, truth, mteval_words):
            closest += min(map(len, references), key=lambda length: (abs(length - len(words)), length))
            for n in ORDERS if words else ():
                found[n] += hits(words, references, n).total()
                counts[n] += len(words) - n + 1
        if counts[1] == 0:
            return 0.0
        brevity = min(0.0, 1 - closest / counts[1])
        shares = (math.log(max(found[n], NO_HIT) / max(counts[n], NO_NGRAM)) for n in ORDERS)
        value = math.exp(brevity + sum(shares) / len(ORDERS))
        if value <= 1 + 1e-9:
            return min(value, 1.0)
        log.warning("bleu is 0: most outputs are shorter than four words, and the formula gives %.3g for them", value)
        return 0.0
