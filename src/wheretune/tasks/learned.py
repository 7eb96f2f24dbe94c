"""What the tasks that learn tokens make of them: which token represents a row, and what a model's numbers say.

A model with the head `lm` gives of every row the sum of -log p over its learned tokens, their number, how many of them
are the likeliest of the vocabulary, and the logits of the row's `choices` where it has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wheretune.data.examples import NOT_LEARNED
from wheretune.metrics.base import Predictions

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

LIKELIHOOD = 3  # the numbers of a row that are no logits of its choices


def start_of_answer(labels: Sequence[int]) -> int:
    """The first token of the last stretch that is learned: what stands before it predicts it, and represents the row.

    The prompt's last token (T 5.3); of a row that teaches nothing what would follow its last token.
    """
    place = len(labels)
    while place > 0 and labels[place - 1] == NOT_LEARNED:
        place -= 1
    if place == 0:
        return len(labels)
    while place > 0 and labels[place - 1] != NOT_LEARNED:
        place -= 1
    return place


def last_learned(labels: Sequence[int]) -> int:
    """The last token that is learned, which stands for a text without a prompt; as above where nothing is."""
    learned = [place for place, label in enumerate(labels) if label != NOT_LEARNED]
    return learned[-1] if learned else len(labels)


def likelihoods(numbers: Float[np.ndarray, "row number"]) -> Predictions:
    """Of every row the mean of -log p over its learned tokens, and what metrics read of it."""
    lost, tokens = numbers[:, 0], numbers[:, 1]
    return Predictions(
        written=[float(one) for one in lost / tokens.clip(min=1)], kinds={"likelihood": numbers[:, :LIKELIHOOD]}
    )
