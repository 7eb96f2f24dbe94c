"""Several scorers side by side: how alike they rank the layers of a model, and what each would choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wheretune.errors import ConfigError
from wheretune.planning import choose
from wheretune.selectors.base import direction_of

if TYPE_CHECKING:
    from wheretune.planning import AnySelector
    from wheretune.records.scores import Choice, LayerScores


@dataclass(frozen=True)
class Agreement:
    """Several scorers side by side, by the same number of layers.

    Attributes:
        names: Of the scorers.
        correlations: Spearman's rank correlation over layers of every two, where high means important: scores that
            their source tunes from the lowest are turned round. None where a scorer ranks all alike or too few layers.
        choices: What each would choose as its source does.
    """

    names: tuple[str, ...]
    correlations: tuple[tuple[float | None, ...], ...]
    choices: tuple[Choice, ...]


def agreement(every: Sequence[LayerScores], selectors: Sequence[AnySelector]) -> Agreement:
    """How alike several scorers rank the layers, and which each would choose.

    Args:
        every: Scores of one model.
        selectors: What chooses by each.

    Raises:
        ConfigError: The scores are of models with different numbers of layers.
    """
    from scipy.stats import spearmanr

    if len({len(scores.layers) for scores in every}) > 1:
        raise ConfigError("the scores are of models with different numbers of layers", "score one model")
    upwards = [_upwards(scores) for scores in every]

    def correlation(a: int, b: int) -> float | None:
        both = np.isfinite(upwards[a]) & np.isfinite(upwards[b])
        one, other = upwards[a][both], upwards[b][both]
        if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
            return None
        return float(spearmanr(one, other).statistic)

    indices = range(len(every))
    return Agreement(
        names=tuple(scores.scorer.name for scores in every),
        correlations=tuple(tuple(correlation(a, b) for b in indices) for a in indices),
        choices=tuple(choose(scores, selector) for scores, selector in zip(every, selectors, strict=True)),
    )


def _upwards(scores: LayerScores) -> np.ndarray:
    """The scores, where high means important."""
    return -scores.values if direction_of(scores.scorer) == "lowest" else scores.values
