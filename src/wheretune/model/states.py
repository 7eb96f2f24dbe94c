"""What one batch gives: states, meanings and gradients. Types alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class States:
    """One batch of representative tokens; streamed to the scorers, never stored.

    Attributes:
        tokens: The embeddings' output and the output of every layer, fp32.
        sample_ids: The row of each sample in the data set, for messages.
        labels: Class indices, numbers or, per class, 0 or 1, where the data has labels.
        reduced: What a scorer's `reduction` made of all tokens of every layer, by the scorer's name.
        meanings: The semantic bases of the labels and which of them each sample has, where a scorer reads them.
    """

    tokens: Float[Tensor, "batch layer_plus_1 hidden"]
    sample_ids: tuple[int, ...]
    labels: Shaped[Tensor, "batch ..."] | None
    reduced: dict[str, Float[Tensor, "batch layer"]]
    meanings: Meanings | None = None


@dataclass(frozen=True, eq=False)
class Meanings:
    """What the labels of a batch mean in the model's last latent space.

    Attributes:
        bases: The semantic base of every label that the data has, fp32.
        targets: The row of `bases` that is each sample's.
    """

    bases: Float[Tensor, "label hidden"]
    targets: Int[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of one batch: what the loss of a fresh head asks of the parameters of every layer.

    Attributes:
        norms: The L2 norm of the gradient of the batch's mean loss, a layer.
        squares: The mean over a layer's parameters of the squared gradient of each sample's own loss, where a scorer
            reads it.
        batch_squares: The same of the batch's mean loss.
        sample_ids: The row of each sample in the data set.
    """

    norms: Float[Tensor, " layer"]
    squares: Float[Tensor, "batch layer"] | None
    batch_squares: Float[Tensor, " layer"]
    sample_ids: tuple[int, ...]
