"""Layer probe: how good the model is after tuning one layer of the middle third alone, briefly.

OLFT 2.2. The scorer itself trains nothing: it says which layers are to be tried, and what follows from the results;
`trials` tunes and judges each candidate.

Decided where the paper says "like validation set": the small set is drawn from the training data and split in two, one
half to tune and one to judge, so neither validation nor test data is ever seen. The candidates are the middle bucket,
layers floor(L/3) to floor(2 L/3) - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.scorers.base import Card, Finished

if TYPE_CHECKING:
    from jaxtyping import Float

    from wheretune.scorers.base import Candidate

OUTSIDE = "outside the middle third"


@dataclass(frozen=True)
class LayerProbe:
    """The metric after tuning one layer of the middle third alone, on a small set (OLFT 2.2).

    Attributes:
        tuner: How each candidate is tuned: a `Spec`, or a tuner, which is made one.
        head: What sits on top, likewise; None takes the task's own.
        samples: Rows of the training data to draw; all if there are fewer.
        epochs: Passes over the tuning half.
        learning_rate: Peak learning rate.
        batch_size: Texts in a batch.
        seed: Seed for the draw, the head and the training.
    """

    tuner: Spec | Any = field(default_factory=lambda: Spec("full"))
    head: Spec | Any | None = None
    samples: int = 1000
    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 16
    seed: int = 0
    name: ClassVar[str] = "layer-probe"
    card: ClassVar[Card] = Card(
        "metric after tuning layer l of the middle third alone",
        "OLFT, 2.2",
        ("training", "labels"),
        "a short training for a third of the layers",
        "middle-best",
    )

    def __post_init__(self) -> None:
        for name in ("tuner", "head"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Spec):
                object.__setattr__(self, name, Spec.of(given))
        if self.samples < 4:
            raise ConfigError(f"layer-probe with samples={self.samples} has nothing to split", "take 4 or more")
        _ = self.settings  # which refuses what cannot train

    @property
    def settings(self) -> TrainSettings:
        """How each candidate is trained."""
        return TrainSettings(self.epochs, self.learning_rate, self.batch_size, seed=self.seed)

    def to_try(self, layers: int, tried: Sequence[Candidate]) -> tuple[int, ...]:
        """The layers of the middle third that were not tried.

        Raises:
            ConfigError: The model has no middle third.
        """
        first, last = layers // 3, 2 * layers // 3
        if first == last:
            raise ConfigError(f"a model of {layers} layers has no middle third", "use another scorer", "scorer")
        done = {candidate.layer for candidate in tried}
        return tuple(layer for layer in range(first, last) if layer not in done)

    def finish(self, layers: int, tried: Sequence[Candidate]) -> Finished:
        """The metric of every candidate; a metric of which less is better is negated, so that high is good."""
        values = np.full(layers, np.nan)
        for candidate in tried:
            values[candidate.layer] = candidate.value if candidate.higher_is_better else -candidate.value
        excluded = {layer: OUTSIDE for layer in range(layers) if np.isnan(values[layer])}
        return Finished(values, covariance=_covariance(tried, layers), excluded=excluded)


def _covariance(tried: Sequence[Candidate], layers: int) -> Float[np.ndarray, "layer layer"] | None:
    """The covariance of being right over the judged rows, which accuracy is the mean of; 0 for a layer left out."""
    if not all(candidate.right for candidate in tried):
        return None
    places = [candidate.layer for candidate in tried]
    matrix = np.zeros((layers, layers))
    rights = np.array([candidate.right for candidate in tried], dtype=float)
    matrix[np.ix_(places, places)] = np.atleast_2d(np.cov(rights, bias=True))
    return matrix
