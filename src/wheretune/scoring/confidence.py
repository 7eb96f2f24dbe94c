"""How sure a choice is, and when it is settled.

Both rest on the covariance of the layers' scores, so differences between layers are paired: texts on which all layers
score high or low together do not blur the choice. For scores that are means over samples it is the samples' own; for
others (CKA, variance) it comes from subsamples without replacement, see `scorers.sketch`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.records.scores import Confidence, Settlement
from wheretune.scorers.base import BoundedScorer
from wheretune.selectors.base import PairwiseSelector, resolved

if TYPE_CHECKING:
    from jaxtyping import Float

    from wheretune.model.states import States
    from wheretune.records.scores import LayerScores
    from wheretune.scorers.base import Finished
    from wheretune.scoring.one_pass import Watch
    from wheretune.selectors.base import Selector

DRAWS = 2000
LEAST = 64  # samples before the normal approximation is trusted
KEPT = ("_waiting", "_seen", "_sums", "_squares", "_log_capital", "_best")  # all that bets know
BOLDEST = 0.9  # of the highest bet that cannot lose everything on one text


def how_sure(scores: LayerScores, selector: Selector, seed: int = 0) -> Confidence | None:
    """How often resamples of the data would make the same choice.

    The scores of a resample of n texts are taken as normal around the scores that were measured (central limit
    theorem); `DRAWS` of them are drawn and handed to the selector.

    Args:
        scores: With a covariance.
        selector: Makes the choice.
        seed: Seed for the draws.

    Returns:
        The shares; None if the scores have no covariance, or the selector reads no scores.
    """
    if scores.covariance is None or not selector.needs_scores or scores.n_samples < 2:
        return None
    means, covariance = scores.values, np.array(scores.covariance)
    there = np.isfinite(means)
    error = covariance[np.ix_(there, there)] / (scores.n_samples - 1)
    draws = np.tile(means, (DRAWS, 1))
    generator = np.random.default_rng(seed)
    draws[:, there] = generator.multivariate_normal(means[there], error, size=DRAWS, method="eigh")
    chosen = selector.select(means)
    made = Counter(selector.select(draw) for draw in draws)
    shares = np.zeros(len(means))
    for layers, times in made.items():
        shares[list(layers)] += times / DRAWS
    over_samples = np.isfinite(scores.stds[there]).all()
    varies = scores.stds[there].mean() if over_samples else 2 * np.sqrt(np.diag(error)).mean()
    return Confidence(
        selection=made[chosen] / DRAWS,
        layers=tuple(float(share) for share in shares),
        flat=bool(np.ptp(means[there]) < varies),
    )


@dataclass(frozen=True)
class Settler:
    """Says, while scores stream in, whether a choice can still be expected to change.

    A contest sets a chosen layer against a rival; the choice is settled when none is open any more. One may look as
    often as one likes. The error is shared out among the contests: were the choice wrong, one of the right choice's own
    contests, of which there are as many, would have been decided wrongly.

    `asymptotic` watches the mean of each contest's paired difference with an asymptotic confidence sequence
    (Waudby-Smith et al. 2021, theorem 2.2) and closes it when its lower bound is not below -tolerance:

        d_n +- s_n sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / a)),  a = (1 - confidence) / contests

    It is exact in the limit of many samples, not for any number of them. `betting` is rigorous for any number: see
    `Bets`.

    Attributes:
        selector: Makes the choice, by comparing pairs of layers.
        confidence: The probability that what is said is true, over all looks and contests.
        tolerance: A layer counts as the better one if it is worse by no more than this.
        bound: `asymptotic` or `betting`.
        sharpest: The number of samples at which the asymptotic bounds are tightest.
    """

    selector: Selector
    confidence: float = 0.95
    tolerance: float = 0.0
    bound: Literal["asymptotic", "betting"] = "asymptotic"
    sharpest: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.selector, PairwiseSelector):
            raise ConfigError(
                f"whether {self.selector.name} is settled cannot be told: it compares no pairs of layers",
                "select highest, lowest, block-highest, block-lowest, middle-best or suffix",
                "selector",
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"the confidence is {self.confidence}", "give a number between 0 and 1", "confidence")
        if not 0 <= self.tolerance < np.inf:
            raise ConfigError(f"the tolerance is {self.tolerance}", "give 0 or more", "tolerance")

    def watch(self, scorer: Any, texts: int | None) -> Watch:
        """What looks on while `scorer` reads up to `texts` texts in random order.

        Raises:
            ConfigError: Betting needs a score that is a mean of bounded numbers, and to know how many texts there are.
        """
        if self.bound == "asymptotic":
            return _Sequence(self)
        if texts is None:
            raise ConfigError(
                "betting needs to know how many texts there are, and of a stream nobody does",
                "leave streaming out, or take the asymptotic bound",
                "bound",
            )
        if not isinstance(scorer, BoundedScorer):
            raise ConfigError(
                f"betting needs a mean of bounded numbers, and {scorer.name} is none",
                "use cosine-centrality or io-cosine, or the asymptotic bound",
                "bound",
            )
        return Bets(self, scorer, texts)

    def settlement(self, finished: Finished, n: int, method: str, is_open: Any) -> Settlement:
        """What can be said after `n` samples, where `is_open(chosen, rival, sign, contests)` judges a contest."""
        assert isinstance(self.selector, PairwiseSelector)  # as __post_init__ made sure
        contests = self.selector.contests(finished.values)
        still_open = tuple((w, rival) for w, rival, sign in contests if is_open(w, rival, sign, len(contests)))
        return Settlement(
            selector=Spec.of(resolved(self.selector, len(finished.values))),
            layers=self.selector.select(finished.values),
            settled=not still_open,
            n_samples=n,
            confidence=self.confidence,
            tolerance=self.tolerance,
            method=method,
            open=still_open,
            least=LEAST if self.bound == "asymptotic" else 0,
        )


@dataclass(frozen=True)
class _Sequence:
    """The asymptotic confidence sequence."""

    settler: Settler

    @property
    def settings(self) -> str:
        """The choice and the confidence."""
        return repr(self.settler)

    def kept(self) -> dict[str, Any]:
        """Nothing: the sums are enough."""
        return {}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Nothing."""

    def see(self, states: States) -> None:
        """Nothing."""

    def look(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples.

        Raises:
            ConfigError: The scores are no means over samples.
        """
        if finished.stds is None:
            raise ConfigError(
                "whether a choice is settled can be told of scores that are means over samples alone",
                "use a centrality scorer",
                "until_settled",
            )

        def is_open(winner: int, rival: int, sign: int, contests: int) -> bool:
            return n < LEAST or self._lower(finished, winner, rival, sign, n, contests) < -self.settler.tolerance

        return self.settler.settlement(finished, n, "asymptotic confidence sequence", is_open)

    def _lower(self, finished: Finished, winner: int, rival: int, sign: int, n: int, contests: int) -> float:
        """The lower bound of the paired difference between a chosen layer and a rival."""
        assert finished.covariance is not None
        covariance = finished.covariance
        difference = sign * (finished.values[winner] - finished.values[rival])
        variance = covariance[winner, winner] + covariance[rival, rival] - 2 * covariance[winner, rival]
        alpha = (1 - self.settler.confidence) / contests
        rho = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha)) + 1) / self.settler.sharpest  # r^2, equation 44 there
        width = np.sqrt(2 * (n * rho + 1) / (n**2 * rho) * np.log(np.sqrt(n * rho + 1) / alpha))
        return float(difference - np.sqrt(max(variance, 0.0)) * width)


class Bets:
    """Betting against every "layer j is better than i by the tolerance or more, over all the data".

    The texts come in random order without replacement, so under that claim the next paired difference D has a
    conditional mean of at most m = (-N tolerance - what was seen) / texts left, and the capital

        K <- K (1 + b (D - m)),  0 <= b <= BOLDEST / (R + m),  |D| <= R

    is a supermartingale: it exceeds contests / (1 - confidence) with probability of at most (1 - confidence) /
    contests, whenever one looks (Waudby-Smith and Ramdas 2024, section 5; Ville's inequality). Rigorous for any number
    of texts. The bet b is the approximately growth-optimal one by what earlier looks have seen.

    Args:
        settler: The choice and the confidence.
        scorer: A mean of bounded numbers.
        texts: N.
    """

    def __init__(self, settler: Settler, scorer: BoundedScorer, texts: int) -> None:
        self._settler = settler
        self._scorer = scorer
        self._texts = texts
        self._waiting: list[tuple[tuple[int, ...], Float[np.ndarray, "batch layer"]]] = []
        self._seen = 0
        nothing: Float[np.ndarray, "layer layer"] = np.zeros((1, 1))  # becomes layers x layers with the first texts
        self._sums = nothing
        self._squares = nothing
        self._log_capital = nothing
        self._best = nothing

    @property
    def settings(self) -> str:
        """The choice and the confidence."""
        return repr(self._settler)

    def kept(self) -> dict[str, Any]:
        """The capital, what it hangs on, and the texts on which no bet was placed yet."""
        return {name: getattr(self, name) for name in KEPT}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Goes on with another's capital."""
        for name in KEPT:
            setattr(self, name, kept[name])
        self._waiting = list(self._waiting)

    def see(self, states: States) -> None:
        """Keeps the batch until the next look."""
        self._waiting.append((states.sample_ids, self._scorer.per_text(states).double().cpu().numpy()))

    def look(self, finished: Finished, n: int) -> Settlement:
        """Places the bets on the texts seen since the last look, and says what can be said."""
        self._bet(np.concatenate([numbers for _, numbers in self._waiting]))
        self._waiting = []

        def is_open(winner: int, rival: int, sign: int, contests: int) -> bool:
            better, worse = (winner, rival) if sign > 0 else (rival, winner)
            return self._seen < self._texts and bool(
                self._best[better, worse] < np.log(contests / (1 - self._settler.confidence))
            )

        return self._settler.settlement(finished, n, "betting, rigorous for any number of texts", is_open)

    def _bet(self, numbers: Float[np.ndarray, "text layer"]) -> None:
        # All texts of a look face the same bet and the same m. Their order within the look, which is by length and not
        # random, then does not matter, and the product still is a supermartingale: what is drawn without replacement is
        # negatively associated (Joag-Dev and Proschan 1983), so its mean is at most the product of the means.
        low, high = self._scorer.bounds
        most = high - low
        claimed = (-self._texts * self._settler.tolerance - self._sums) / (self._texts - self._seen)
        mean = self._sums / max(self._seen, 1)
        edge = mean - claimed
        variance = self._squares / max(self._seen, 1) - mean**2
        differences = numbers[:, :, None] - numbers[:, None, :]
        with np.errstate(invalid="ignore", divide="ignore"):
            bet = np.where(edge > 0, edge / (variance + edge**2), 0.0)
            bet = np.minimum(bet, BOLDEST / np.maximum(most + claimed, 1e-12))
            grown = self._log_capital + np.log1p(bet * (differences - claimed)).sum(0)
        self._log_capital = np.where(claimed < -most, np.inf, grown)  # no text could make the claim true any more
        self._best = np.maximum(self._best, self._log_capital)
        self._sums = self._sums + differences.sum(0)
        self._squares = self._squares + (differences**2).sum(0)
        self._seen += len(numbers)
