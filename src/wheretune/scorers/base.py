"""What a scorer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.forward import Reduction
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import Gradients, States
    from wheretune.records.base import Spec
    from wheretune.records.runs import TrainSettings
    from wheretune.records.scores import Deviations

Direction = Literal["highest", "lowest"]
Need = Literal["states", "labels", "gradients", "language-model", "training", "weights"]
WORDS: Mapping[Need, str] = {
    "states": "texts",
    "gradients": "texts",
    "training": "texts",
    "labels": "labels",
    "language-model": "a causal language model (a target column may stand in for labels)",
}


@dataclass(frozen=True)
class Card:
    """What a scorer declares of itself: what it needs, and how its scores are meant.

    Attributes:
        formula: In one line.
        source: The paper and its equation.
        needs: Any of `states` (one forward pass), `gradients` (one backward pass), `training` (candidates are tuned,
            see `trials`), `weights` (no texts), `labels`, and `language-model` (the output matrix, and the token that
            each text should be followed by).
        cost: In words.
        selector: The selector that the source uses with it.
        direction: Whether the source tunes the layers with the highest or with the lowest scores.
    """

    formula: str
    source: str
    needs: tuple[Need, ...]
    cost: str
    selector: str
    direction: Direction = "highest"

    def __post_init__(self) -> None:
        known = get_args(Need)
        if isinstance(self.needs, str) or not set(self.needs) <= set(known):
            raise ConfigError(f"a scorer's card says needs={self.needs!r}", f"give a tuple of {', '.join(known)}")

    @property
    def needs_in_words(self) -> str:
        """What the user has to bring."""
        return ", ".join(dict.fromkeys(WORDS[need] for need in self.needs if need in WORDS)) or "no texts"


@dataclass(frozen=True)
class Candidate:
    """What tuning one layer alone gave.

    Attributes:
        layer: Counted from 0.
        metric: The task's main metric, on the rows that judge.
        value: Its value.
        n: Rows it is of.
        trainable_parameters: The head's included.
        seconds: Wall-clock seconds of training and judging.
        right: 1 or 0 per row, where the metric is their mean; none for other metrics.
        higher_is_better: Which way the metric is better.
    """

    layer: int
    metric: str
    value: float
    n: int
    trainable_parameters: int
    seconds: float
    right: tuple[int, ...] = ()
    higher_is_better: bool = True


@dataclass(frozen=True, eq=False)
class Finished:
    """What a scorer makes of its sums.

    Attributes:
        values: One score per layer; not a number where the layer is no candidate.
        stds: The population standard deviation over samples, for scores that are means over samples.
        covariance: n times the covariance of the layers' scores over resamples of the data; for such scores, the
            population covariance over samples.
        similarity: The mean similarity of every pair of layers, where the scorer compares them.
        excluded: Why a layer is no candidate, by its index.
        deviations: Of every latent space, where the scorer measures them.
    """

    values: Float[np.ndarray, " layer"]
    stds: Float[np.ndarray, " layer"] | None = None
    covariance: Float[np.ndarray, "layer layer"] | None = None
    similarity: Float[np.ndarray, "layer layer"] | None = None
    excluded: dict[int, str] = field(default_factory=dict)
    deviations: Deviations | None = None


@runtime_checkable
class StackScorer(Protocol):
    """A frozen object of settings that scores the layers without reading any text."""

    name: ClassVar[str]
    card: ClassVar[Card]

    def score(self, stack: LayerStack) -> Finished:
        """The scores."""


@runtime_checkable
class TrainingScorer(Protocol):
    """A frozen object of settings that has candidates tuned one layer at a time, and scores by how they did.

    It trains nothing itself: it says what to try and what follows from the results; `trials` tunes and judges.

    Attributes:
        tuner: How each candidate is tuned.
        head: What sits on top.
        samples: Rows of the training data to draw; all if there are fewer.
        settings: How each candidate is trained; its seed also draws the rows and the head.
    """

    name: ClassVar[str]
    card: ClassVar[Card]

    @property
    def tuner(self) -> Spec: ...

    @property
    def head(self) -> Spec: ...

    @property
    def samples(self) -> int: ...

    @property
    def settings(self) -> TrainSettings: ...

    def to_try(self, layers: int, tried: Sequence[Candidate]) -> tuple[int, ...]:
        """The layers of a model that are still to be tried after what was; none when it is finished."""

    def finish(self, layers: int, tried: Sequence[Candidate]) -> Finished:
        """The scores."""


@runtime_checkable
class StreamScorer(Protocol):
    """A frozen object of settings that is handed the states of every batch.

    Its state is bounded, however much data there is, and the states of two shards merge.

    Attributes:
        kinds: The dataclasses that a state consists of: tensors, numbers, strings, tuples and each other, so that
            a state can be written to a file.
        reduction: Computed from all tokens of every layer's input and output while the model runs, and handed
            on as `states.reduced[name]`; None where representative tokens are enough.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    kinds: ClassVar[tuple[type, ...]]

    @property
    def reduction(self) -> Reduction | None:
        """What to compute from all tokens, if anything."""

    def init(self, stack: LayerStack) -> Any:
        """The empty state for a model."""

    def update(self, state: Any, states: States) -> Any:
        """The state after one more batch."""

    def merge(self, one: Any, other: Any) -> Any:
        """The state of two shards of the data."""

    def finish(self, state: Any) -> Finished:
        """The scores."""


@runtime_checkable
class GradientScorer(Protocol):
    """A frozen object of settings that is handed the gradients of every batch; otherwise as a `StreamScorer`.

    Attributes:
        per_sample: Whether it reads each sample's own gradient.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    kinds: ClassVar[tuple[type, ...]]

    @property
    def per_sample(self) -> bool:
        """Whether it reads `Gradients.squares`."""

    def init(self, stack: LayerStack) -> Any:
        """The empty state for a model."""

    def update(self, state: Any, gradients: Gradients) -> Any:
        """The state after one more batch."""

    def merge(self, one: Any, other: Any) -> Any:
        """The state of two shards of the data."""

    def finish(self, state: Any) -> Finished:
        """The scores."""


@runtime_checkable
class BoundedScorer(Protocol):
    """A stream scorer whose score is the mean over samples of a number that is bounded: what betting needs to know.

    Attributes:
        bounds: The lowest and the highest that number can be.
    """

    bounds: ClassVar[tuple[float, float]]

    def per_text(self, states: States) -> Float[Tensor, "batch layer"]:
        """The numbers of every sample."""


Scorer = StackScorer | StreamScorer | GradientScorer
"""What one pass over the data feeds; a `TrainingScorer` is fed by trials."""
