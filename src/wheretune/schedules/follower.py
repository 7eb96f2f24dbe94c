"""Turns what a schedule says is active into `requires_grad` flags, and keeps up the optimizer and the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from wheretune.errors import PlanError, TrainingError
from wheretune.records.base import Spec
from wheretune.schedules.signals import relative_change
from wheretune.schedules.witness import Witness
from wheretune.support.log import log

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.model.steps import Training
    from wheretune.schedules.base import Schedule, State


class ScheduleFollower:
    """Carries out a schedule.

    A frozen parameter requires no gradient and its `grad` is None, so the optimizer leaves it alone: no momentum and no
    weight decay move it. (Zeros in `grad` would.)

    Args:
        schedule: What it carries out.
        stack: The model's layers.
        chosen: The plan's.
        parameters: All that may ever train, by name; each requires a gradient when the optimizer is made.
        seed: Seed for all random draws of the schedule.
        moved: Called whenever other parameters require a gradient than before.

    Attributes:
        name: `schedule`.
        ever: The units that have been active so far in steps that move weights; warm-up begins at a rate of 0.
    """

    name = "schedule"

    def __init__(
        self,
        schedule: Schedule,
        stack: LayerStack,
        chosen: Sequence[int],
        parameters: Mapping[str, nn.Parameter],
        seed: int,
        moved: Callable[[], None],
    ) -> None:
        self.ever: frozenset[int] = frozenset()
        self._due: frozenset[int] = frozenset()
        self._schedule, self._parameters, self._moved = schedule, parameters, moved
        self._chosen, self._layers, self._seed = tuple(chosen), len(stack), seed
        self._units: dict[int, list[nn.Parameter]]
        if schedule.unit == "tensor":
            self._units = {number: [parameter] for number, parameter in enumerate(parameters.values())}
        else:
            may = {id(parameter) for parameter in parameters.values()}
            inside = {layer: stack.layers[layer].module.parameters() for layer in self._chosen}
            self._units = {layer: [p for p in found if id(p) in may] for layer, found in inside.items()}
        self._active: frozenset[int] | None = None  # None: everything
        self._before: dict[int, list[Tensor]] = {}

    def trained(self) -> dict[str, nn.Parameter]:
        """What has trained in at least one step so far, by name."""
        never = {id(p) for unit, parameters in self._units.items() if unit not in self.ever for p in parameters}
        return {name: p for name, p in self._parameters.items() if id(p) not in never}

    def begin(self, training: Training) -> None:
        """Makes the schedule's first state.

        Raises:
            TrainingError: The optimizer lacks a parameter that may train later.
        """
        held = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
        lacking = [name for name, parameter in self._parameters.items() if id(parameter) not in held]
        if lacking:
            raise TrainingError(
                f"the optimizer lacks {lacking[0]}, which may train later by the schedule {self._schedule.name}",
                "make the optimizer after apply, of all parameters that require a gradient then",
            )
        self._optimizer, self._steps = training.optimizer, training.steps
        self._thaw()
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        self._state: State = self._schedule.init(self._layers, self._chosen, shapes, training.steps, self._seed)
        self.ever = self._due = frozenset()
        self._witness = Witness(self._units, self._schedule.unit)

    def before_step(self, step: int) -> None:
        """Freezes and thaws what the schedule says.

        Raises:
            PlanError: It names a unit that may not train.
        """
        active = self._schedule.active(self._state, step)
        if active != self._active:
            if self._active is not None and self._schedule.optimizer_state == "drop-all":
                self._optimizer.state.clear()
            self._freeze(active)
            self._due |= active
            self._witness.before_step(step, active)
        if "change" in self._schedule.observes:
            self._before = {unit: [p.detach().clone() for p in self._units[unit]] for unit in sorted(active)}

    def penalty(self) -> None:
        return None

    def after_step(self, step: int) -> None:
        if self._active is not None and any(group["lr"] > 0 for group in self._optimizer.param_groups):
            self.ever |= self._active
        self._witness.after_step(step, self._optimizer)
        if self._schedule.observes:
            changes = {unit: relative_change(old, self._units[unit]) for unit, old in self._before.items()}
            measured = {unit: change for unit, change in changes.items() if change is not None}
            self._state = self._schedule.observe(self._state, {"change": measured})
            self._before = {}

    def end(self) -> None:
        """Lets everything that may train require a gradient again, as `apply` left it."""
        idle = sorted(self._due - self.ever)
        if idle and self.ever:
            log.warning(
                "%s %s had its turn only while the learning rate was 0; leave out the warm-up, or train for more steps",
                self._schedule.unit,
                ", ".join(map(str, idle)),
            )
        self._thaw()

    def state(self) -> dict[str, Tensor]:
        active = frozenset(self._units) if self._active is None else self._active
        kept = {f"state/{name}": torch.from_numpy(values.copy()) for name, values in self._state.items()}
        return kept | {"active": _numbers(active), "ever": _numbers(self.ever), "of": self._label()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where a training by the same schedule stopped.

        Raises:
            TrainingError: Another schedule wrote the state, or the training was one of other steps.
        """
        check_label(state, self._label())
        kept = {name.removeprefix("state/"): v for name, v in state.items() if name.startswith("state/")}
        self._state = {name: values.numpy().copy() for name, values in kept.items()}
        self.ever = frozenset(state["ever"].tolist())
        self._freeze(frozenset(state["active"].tolist()))

    def _label(self) -> Tensor:
        return label(self._schedule, self._steps, self._seed)

    def _freeze(self, active: frozenset[int]) -> None:
        unknown = sorted(active - self._units.keys())
        if unknown:
            raise PlanError(
                f"the schedule {self._schedule.name} names {self._schedule.unit} {unknown[0]}, which may not train",
                "let the plan choose every layer that the schedule draws from",
            )
        for unit, parameters in self._units.items():
            for parameter in parameters:
                parameter.requires_grad = unit in active
                if unit not in active:
                    parameter.grad = None
                    if self._schedule.optimizer_state != "keep":
                        self._optimizer.state.pop(parameter, None)
        self._active = active
        self._moved()

    def _thaw(self) -> None:
        if self._active is not None:
            for parameter in self._parameters.values():
                parameter.requires_grad = True
            self._active = None
            self._moved()


def label(schedule: Schedule, steps: int, seed: int) -> Tensor:
    """A schedule, the seed and the number of steps, as bytes that a checkpoint can hold."""
    text = f"{Spec.of(schedule)} with {steps} steps and seed {seed}"
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def check_label(state: Mapping[str, Tensor], own: Tensor) -> None:
    """Refuses what another schedule wrote into a checkpoint.

    Raises:
        TrainingError: The state is another schedule's, or of a training of other steps.
    """
    if "of" not in state or not torch.equal(state["of"].cpu(), own):
        written = bytes(state["of"].tolist()).decode() if "of" in state else "no schedule that moves"
        raise TrainingError(
            f"the checkpoint was written by {written}, and this is {bytes(own.tolist()).decode()}",
            "go on with that schedule and as many steps, or start the run over",
        )


def _numbers(units: frozenset[int]) -> Tensor:
    return torch.tensor(sorted(units), dtype=torch.int64)
