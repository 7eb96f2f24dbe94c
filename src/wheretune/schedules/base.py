"""What a schedule is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from wheretune.model.steps import Follower
from wheretune.records.base import Spec

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.model import LayerInfo

Unit = Literal["layer", "tensor", "row"]
OptimizerState = Literal["keep", "drop", "drop-all"]
Signal = Literal["change"]
State = Mapping[str, np.ndarray]  # plain arrays by name, so that every checkpoint can hold them


@runtime_checkable
class Schedule(Protocol):
    """Which units train at which step: a frozen object of settings, and pure functions of them and a state.

    A unit is a layer or a named tensor, as `unit` says. Units are numbered: layers as in the model, tensors by their
    place among those that may train. What may train and stands in no unit (with layers: the head and the embeddings)
    trains at every step. A schedule of rows, which are parts of tensors, is a `WorkingCopy`: its units are the layers
    that have any.

    Attributes:
        name: In the catalog.
        moves: Whether `active` is ever another set; if not, nothing is done while the model trains.
        unit: What is frozen and thawed.
        observes: The signals that `observe` reads. `change`: the mean over a unit's elements of
            |(w_new - w_old) / w_old|, elements with w_old = 0 left out, of every unit that trained in the step; a unit
            whose elements were all 0 has none.
        embeddings: Whether what stands outside the layers trains with whole layers; None leaves it to the tuner.
    """

    name: ClassVar[str]
    moves: ClassVar[bool]
    unit: ClassVar[Unit]
    observes: ClassVar[tuple[Signal, ...]]

    @property
    def embeddings(self) -> bool | None:
        """Whether what stands outside the layers trains too."""

    @property
    def optimizer_state(self) -> OptimizerState:
        """What becomes of the optimizer's state when the active set changes.

        `keep`: moments and step counts stay, as they were when a unit froze. `drop`: units that freeze lose theirs.
        `drop-all`: everything that trains loses its own, as if a new training began.
        """

    def check(self, chosen: int, tuner: Spec) -> None:
        """Refuses, before a model is opened, what it cannot serve.

        Args:
            chosen: How many layers the plan has.
            tuner: How they are tuned.

        Raises:
            ConfigError: There are too few layers, or the tuner trains what it cannot schedule.
        """

    def expected(self, chosen: int) -> tuple[float, ...]:
        """The expected share of the steps in which each of so many chosen layers trains, the lowest first.

        For a schedule of tensors, the share of a layer's tensors that trains in a step; of rows, that of its maps.
        """

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        """The state before the first step.

        Args:
            layers: L, how many layers the model has.
            chosen: Those of the plan.
            tensors: Shapes of all tensors that may train, by name, in the model's order.
            steps: How many optimizer steps there will be.
            seed: Seed for all random draws.

        Raises:
            ConfigError: There are too few steps.
        """

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        """The state after a step.

        Args:
            state: The state before it; left as it is.
            signals: By signal and unit.
        """

    def active(self, state: State, step: int) -> frozenset[int]:
        """The units that train at a step, numbered from 0; the others of the plan are frozen."""

    def lowest(self, state: State, step: int) -> int:
        """The lowest layer that a gradient reaches at a step, as far as units go; L where it reaches none."""


@runtime_checkable
class OrdersRows(Protocol):
    """A schedule that also says which rows are read at which stage, by the eof layer of each (SALF)."""

    @property
    def variant(self) -> str:
        """Of the semantic deviation by which eof layers are found."""

    @property
    def rescan(self) -> bool:
        """Whether eof layers are found again at each stage."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The steps before which the stages end; filled in when the rows are ordered."""

    def amounts(self, samples: int, stages: int) -> list[int]:
        """How many of so many rows each stage gets."""

    def stages(self, eof_layers: Sequence[int], chosen: Sequence[int], seed: int) -> list[list[int]]:
        """The rows of every stage, in the order in which they are read; none twice.

        Args:
            eof_layers: Of every row.
            chosen: The layers of the plan, ascending.
            seed: Seed for all random draws.
        """

    def stage(self, stage: int, amount: int, left: Mapping[int, int], layer: int, seed: int) -> list[int]:
        """The rows of one stage, in the order in which they are read.

        Args:
            stage: Its number.
            amount: How many rows it gets.
            left: By row that no stage before it had, in the order of the data, its eof layer.
            layer: The lowest that trains in it.
            seed: Seed for all random draws.
        """


@runtime_checkable
class WorkingCopy(Protocol):
    """A schedule that trains a smaller copy of the layers and brings the follower that makes it (RECAP)."""

    @property
    def batches(self) -> int:
        """How many batches it looks at to make the copy."""

    @property
    def looks(self) -> int:
        """How often it looks at them in a training."""

    @property
    def runs(self) -> float:
        """The share of the chosen layers' maps that is in the copy."""

    @property
    def trains(self) -> float:
        """The share of the copy that trains."""

    def check_model(self, layers: Sequence[LayerInfo]) -> None:
        """Refuses layers of which no smaller copy can be made.

        Raises:
            ModelError: It is so of one of them.
        """

    def check_runs(self, stack: LayerStack, layers: Sequence[int]) -> None:
        """Refuses a model that does not run with a smaller copy of some layers.

        Raises:
            ModelError: It does not.
        """

    def follow(
        self, stack: LayerStack, chosen: Sequence[int], parameters: Mapping[str, nn.Parameter], seed: int
    ) -> Scheduled:
        """What carries it out; arguments as for `schedules.follower.ScheduleFollower`."""


class Scheduled(Follower, Protocol):
    """A follower that carries out a schedule."""

    @property
    def ever(self) -> frozenset[int]:
        """The units that have been active so far in steps that move weights."""

    def trained(self) -> dict[str, nn.Parameter]:
        """What has trained in at least one step so far, by name."""
