"""How sure a choice is, and when it is settled; for scores that are means over samples.

Both rest on the covariance over samples of the layers' scores, so differences between layers are paired: texts on which
all layers score high or low together do not blur the choice.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wheretune.errors import ConfigError
from wheretune.scorers.base import Finished
from wheretune.selectors import PairwiseSelector, Selector
from wheretune.types import Confidence, LayerScores, Settlement, Spec

DRAWS = 2000
LEAST = 64  # samples before the normal approximation is trusted


def how_sure(scores: LayerScores, selector: Selector, seed: int = 0) -> Confidence | None:
    """How often resamples of the data would make the same choice.

    The means over a resample of n texts are normal around the means that were measured, with the covariance of the
    texts' scores over n (central limit theorem); `DRAWS` of them are drawn and handed to the selector.

    Args:
        scores: With a covariance, that is, means over samples.
        selector: Makes the choice.
        seed: Of the draws.

    Returns:
        The shares; None if the scores are no means over samples, or the selector reads no scores.
    """
    if scores.covariance is None or not selector.needs_scores or scores.n_samples < 2:
        return None
    means, covariance = scores.values, np.array(scores.covariance)
    generator = np.random.default_rng(seed)
    draws = generator.multivariate_normal(means, covariance / (scores.n_samples - 1), size=DRAWS, method="eigh")
    chosen = selector.select(means)
    made = [selector.select(draw) for draw in draws]
    shares = np.zeros(len(means))
    for layers in made:
        shares[list(layers)] += 1 / DRAWS
    return Confidence(
        selection=sum(layers == chosen for layers in made) / DRAWS,
        layers=tuple(float(share) for share in shares),
        flat=bool(np.ptp(means) < np.sqrt(np.diag(covariance)).mean()),
    )


@dataclass(frozen=True)
class Settler:
    """Says, while scores stream in, whether a choice can still be expected to change.

    Every contest (a chosen layer against a rival) is watched by an asymptotic confidence sequence for the mean of its
    paired difference (Waudby-Smith et al. 2021, theorem 2.2), so one may look as often as one likes:

        d_n +- s_n sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / a)),  a = (1 - confidence) / contests

    It is settled when no lower bound is below -tolerance. Asymptotic: exact in the limit of many samples, not for any
    number of them.

    Attributes:
        selector: Makes the choice, by comparing pairs of layers.
        confidence: The probability that what is said is true, over all looks and contests.
        tolerance: A layer counts as the better one if it is worse by no more than this.
        sharpest: The number of samples at which the bounds are tightest.
    """

    selector: Selector
    confidence: float = 0.95
    tolerance: float = 0.0
    sharpest: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.selector, PairwiseSelector):
            raise ConfigError(
                f"whether {self.selector.name} is settled cannot be told: it compares no pairs of layers",
                "select highest, lowest, block-highest, block-lowest, middle-best or suffix",
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"--confidence is {self.confidence}", "give a number between 0 and 1")
        if not 0 <= self.tolerance < np.inf:
            raise ConfigError(f"--tolerance is {self.tolerance}", "give 0 or more")

    def __call__(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples.

        Raises:
            ConfigError: The scores are no means over samples.
        """
        if finished.covariance is None:
            raise ConfigError("--until-settled needs scores that are means over samples", "use a centrality scorer")
        assert isinstance(self.selector, PairwiseSelector)  # as __post_init__ made sure
        contests = self.selector.contests(finished.values)
        still_open = tuple(
            (winner, rival)
            for winner, rival, sign in contests
            if n < LEAST
            or self._lower(finished, finished.covariance, winner, rival, sign, n, len(contests)) < -self.tolerance
        )
        return Settlement(
            selector=Spec.of(self.selector),
            layers=self.selector.select(finished.values),
            settled=not still_open,
            n_samples=n,
            confidence=self.confidence,
            tolerance=self.tolerance,
            method="asymptotic confidence sequence",
            open=still_open,
        )

    def _lower(
        self,
        finished: Finished,
        covariance: Float[np.ndarray, "layer layer"],
        winner: int,
        rival: int,
        sign: int,
        n: int,
        contests: int,
    ) -> float:
        """The lower bound of the paired difference between a chosen layer and a rival."""
        difference = sign * (finished.values[winner] - finished.values[rival])
        variance = covariance[winner, winner] + covariance[rival, rival] - 2 * covariance[winner, rival]
        alpha = (1 - self.confidence) / contests
        rho = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha)) + 1) / self.sharpest  # r^2, equation 44 there
        width = np.sqrt(2 * (n * rho + 1) / (n**2 * rho) * np.log(np.sqrt(n * rho + 1) / alpha))
        return float(difference - np.sqrt(max(variance, 0.0)) * width)
