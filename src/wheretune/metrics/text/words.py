"""Texts -> words and n-grams, as the scorer of the E2E challenge has them for BLEU and NIST (mteval-v13a)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

Words = list[str]

ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}  # in this order: `&amp;lt;` ends as `<`
APART = (  # what is set apart by spaces, one after the other
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # symbols, but neither ' nor , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a dot or comma after anything but a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # and before anything but a digit
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)


def mteval_words(text: str) -> Words:
    """The words of a text as mteval-v13a divides it, in lower case; none where the text is empty.

    It is what sacrebleu calls `13a` with `lowercase=True`.
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, spaced in APART:
        text = pattern.sub(spaced, text)
    return text.lower().split()


def divided(
    predictions: Predictions, truth: Shaped[np.ndarray, " row"], words: Callable[[str], Words]
) -> Iterator[tuple[Words, list[Words]]]:
    """The words of each output and of its references, row by row.

    Args:
        predictions: With the kind `text`, one string per row.
        truth: Of each row the tuple of its references.
        words: Divides a text.
    """
    for text, references in zip(predictions.kinds["text"].tolist(), truth.tolist(), strict=True):
        yield words(text), [words(reference) for reference in references]


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(words[first:] for first in range(n)), strict=False))


def hits(words: Sequence[str], references: Sequence[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    """The n-grams of an output that a reference has, each at most as often as the reference that has it most often."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= ngrams(reference, n)
    return ngrams(words, n) & most
