"""What a head is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from torch import Tensor, nn


@runtime_checkable
class Head(Protocol):
    """Builds what sits on top: a frozen object of settings.

    Attributes:
        name: In the catalog.
        all_layers: Whether it reads the representative token of every layer, not of the last one alone.
    """

    name: ClassVar[str]
    all_layers: ClassVar[bool]

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module, from features `(batch, layers * hidden)` or `(batch, hidden)` to `(batch, outputs)`."""

    def count(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> int:
        """How many parameters the module has, computed without making it."""


@runtime_checkable
class Objective(Protocol):
    """What a model with a head needs to know of a task.

    Attributes:
        name: For messages.
        places: Whether `one` token per text is read, the representative one, or `every` token.
    """

    name: ClassVar[str]
    places: ClassVar[Literal["one", "every"]]

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
