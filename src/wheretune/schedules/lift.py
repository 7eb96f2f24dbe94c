"""*LIFT* (Zhu et al.): one layer at a time, from front to back; and LIFT* (S): that layer and all above it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import ConfigError
from wheretune.schedules.layers import check_layers, first_state

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import OptimizerState, Signal, State, Unit


class _Turns(ABC):
    """What LIFT and LIFT* share: every chosen layer has its turn, from front to back."""

    name: ClassVar[str]
    moves: ClassVar[bool] = True
    unit: ClassVar[Unit] = "layer"
    observes: ClassVar[tuple[Signal, ...]] = ()
    optimizer_state: ClassVar[OptimizerState] = "drop"
    embeddings: ClassVar[bool | None] = None

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner)

    @abstractmethod
    def expected(self, chosen: int) -> tuple[float, ...]: ...

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        check_steps(self.name, chosen, steps)
        return first_state(layers, chosen, steps, seed)

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        return state

    @abstractmethod
    def active(self, state: State, step: int) -> frozenset[int]: ...

    def lowest(self, state: State, step: int) -> int:
        return int(state["chosen"][turn(state, step)])


@dataclass(frozen=True)
class Lift(_Turns):
    """LIFT: one layer trains at a time, from front to back, with equal shares of the steps.

    The paper was to be had as an abstract only. Decided: with T steps and L chosen layers, q, r = divmod(T, L), the
    first r layers get q + 1 steps and the others q; T < L is an error. The head always trains; the embeddings are
    frozen unless the tuner trains them. One learning-rate schedule spans all T steps. The state of the optimizer of the
    layer that is left is dropped. Nothing below the layer of a step computes a gradient.
    """

    name: ClassVar[str] = "lift"

    def expected(self, chosen: int) -> tuple[float, ...]:
        return (1 / chosen,) * chosen

    def active(self, state: State, step: int) -> frozenset[int]:
        return frozenset([self.lowest(state, step)])


@dataclass(frozen=True)
class LiftStar(_Turns):
    """LIFT* (S): the layer whose turn it is in LIFT, and all chosen ones above it.

    Decided: a layer's state of the optimizer is kept until the layer freezes, and dropped then.
    """

    name: ClassVar[str] = "lift-star"

    def expected(self, chosen: int) -> tuple[float, ...]:
        return tuple((place + 1) / chosen for place in range(chosen))

    def active(self, state: State, step: int) -> frozenset[int]:
        return frozenset(state["chosen"][turn(state, step) :].tolist())


def check_steps(schedule: str, chosen: Sequence[int], steps: int) -> None:
    """Refuses a training with fewer steps than layers.

    Raises:
        ConfigError: A layer would get no step.
    """
    if steps < len(chosen):
        raise ConfigError(
            f"the schedule {schedule} gives each of {len(chosen)} layers a step, and there are {steps}",
            "train for more steps (more epochs, smaller batches), or choose fewer layers",
            "schedule",
        )


def turn(state: State, step: int) -> int:
    """The place, among the chosen layers, of the one whose turn it is."""
    each, longer = divmod(int(state["steps"]), len(state["chosen"]))
    before = longer * (each + 1)  # steps of the layers that get one more
    place = step // (each + 1) if step < before else longer + (step - before) // each
    return min(place, len(state["chosen"]) - 1)
