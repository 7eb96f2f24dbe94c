"""What may happen around the steps of an optimizer: types alone.

A tuner or a schedule brings followers; `training.followers` calls them at their times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader


@dataclass(frozen=True, eq=False)
class Training:
    """What a follower may know of the training that it follows.

    Attributes:
        steps: How many optimizer steps there will be, those before a stop included.
        optimizer: Holds every parameter that may ever train. A follower may change its `state` in `before_step`.
        loader: Trainer's loader of the training data, for followers that look at texts of their own choice; None where
            it is not known.
        batch_size: How many texts one batch has.
    """

    steps: int
    optimizer: Optimizer
    loader: DataLoader[Any] | None = None
    batch_size: int = 1


@runtime_checkable
class Follower(Protocol):
    """Takes part in a training, beside the optimizer: AdaLoRA shares out its ranks, a schedule freezes and thaws.

    Optimizer steps are numbered from 0. The order of calls:

    1. `begin`, once the optimizer has been made; after a stop also `restore`.
    2. For every step `before_step`; then one or more forward passes, each with `penalty` added to its loss, and their
       backward passes; clipping; the optimizer's step; then `after_step`. The gradients are cleared after that.
    3. `end`, also when the training ends with an error.

    `state` may be called between `after_step` and the next `before_step`.
    """

    @property
    def name(self) -> str:
        """By which its state is kept in a checkpoint; no two followers of a training share it."""

    def begin(self, training: Training) -> None:
        """Called before the first step of a sitting."""

    def before_step(self, step: int) -> None:
        """Called before the forward pass: what is frozen here gets no gradient and is not stepped."""

    def penalty(self) -> Tensor | None:
        """A term of the loss; None if there is none."""

    def after_step(self, step: int) -> None:
        """Called when the optimizer has stepped: parameters are new, and the (clipped) gradients are still there."""

    def end(self) -> None:
        """Called after the last step, or the last before an error."""

    def state(self) -> dict[str, Tensor]:
        """What it must remember to go on after a stop."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave; called after `begin`."""


@runtime_checkable
class Pauses(Protocol):
    """A follower that changes the shape of parameters while a model trains."""

    def pause(self) -> None:
        """Called after a step, before the model is saved or judged: every parameter has its own shape again.

        `before_step` may follow, or the end.
        """
