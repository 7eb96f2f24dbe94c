"""What a head is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from wheretune.heads.top import Objective, TopModel
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@runtime_checkable
class Head(Protocol):
    """What sits on top: a frozen object of settings.

    Attributes:
        name: In the catalog.
        all_layers: Whether it reads the representative token of every layer, not of the last one alone.
        speaks: Whether it is a language model's own, so that the model must be opened as one.
    """

    name: ClassVar[str]
    all_layers: ClassVar[bool]
    speaks: ClassVar[bool]

    def on(self, stack: LayerStack, outputs: int, task: Objective, seed: int, start: float | None = None) -> TopModel:
        """The whole model that trains: `stack` with this head on top.

        Args:
            stack: The layers; those of a language model where the head `speaks`.
            outputs: How many outputs the task has.
            task: What is learned.
            seed: Seed for what is drawn.
            start: Where a bias starts, if there is one; None leaves it as it is drawn.

        Raises:
            ConfigError: The head does not read what the task needs.
            ModelError: The model cannot bear this head.
        """

    def count(self, model: ModelInfo, outputs: int) -> int:
        """How many parameters of it train, computed without making it."""


@runtime_checkable
class Drawn(Protocol):
    """A head of modules that are drawn anew, on the representative token of the last layer or of every one."""

    name: ClassVar[str]
    all_layers: ClassVar[bool]

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module, from features `(batch, layers * hidden)` or `(batch, hidden)` to `(batch, outputs)`."""
