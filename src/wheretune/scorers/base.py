"""What a scorer is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.forward import Reduction
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import Gradients, States
    from wheretune.records.scores import Deviations

Reads = Literal["states", "meanings", "gradients", "training", "weights", "nothing"]
NEEDS: dict[Reads, str] = {
    "states": "texts",
    "meanings": "texts; labels or a target column; a causal language model",
    "gradients": "texts and labels",
    "training": "texts and labels",
    "weights": "no texts",
    "nothing": "no texts",
}


@dataclass(frozen=True)
class Card:
    """What `wheretune scorers` says of a scorer.

    Attributes:
        formula: In one line.
        source: The paper and its equation.
        reads: `states` (one forward pass), `meanings` (that, and what the labels mean to the model), `gradients` (one
            backward pass), `training`, `weights` or `nothing`.
        cost: In words.
        selector: The selector that the source uses with it.
    """

    formula: str
    source: str
    reads: Reads
    cost: str
    selector: str

    @property
    def needs(self) -> str:
        """What the user has to bring."""
        return NEEDS[self.reads]


@dataclass(frozen=True, eq=False)
class Finished:
    """What a scorer makes of its sums.

    Attributes:
        values: A score a layer; not a number where the layer is no candidate.
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
