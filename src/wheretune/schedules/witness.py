"""Proves, in a few steps of a training, that what a schedule announced is what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wheretune.errors import EngagementError
from wheretune.model.identity import tensor_hashes
from wheretune.schedules.draws import key
from wheretune.support.log import log

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

FIRST, LATER = 16, 64  # moves that are looked at: the first few, and then one in so many
TENSORS = 3  # of a unit, the smallest
LEAST_RATE = 1e-6  # a step of less may round to nothing


class Witness:
    """Looks at one unit that trains and one that is frozen, by hashes, in steps before which the set has moved.

    What is frozen and changes all the same ends the training at once. What should have changed and has not is said in a
    warning, since a small step may round to nothing; that every layer which was ever due has changed at the end is for
    `Tuned.check` to prove.

    Args:
        units: The parameters of every unit.
        kind: `layer` or `tensor`.
    """

    def __init__(self, units: Mapping[int, Sequence[nn.Parameter]], kind: str) -> None:
        self._units, self._kind, self._moves = units, kind, 0
        self._before: dict[int, dict[str, str]] = {}
        self._active: frozenset[int] = frozenset()

    def before_step(self, step: int, active: frozenset[int]) -> None:
        """Called when other units train than in the step before."""
        self._moves += 1
        if self._moves > FIRST and self._moves % LATER:
            return
        self._active = active
        for some in (active, self._units.keys() - active):
            if some:
                drawn = min(some, key=lambda unit: key("witness", step, unit))
                self._before[drawn] = self._hashes(drawn)

    def after_step(self, step: int, optimizer: Optimizer) -> None:
        """Compares.

        Raises:
            EngagementError: A frozen unit has changed.
        """
        seen, self._before = self._before, {}
        for unit, before in seen.items():
            changed = self._hashes(unit) != before
            if changed and unit not in self._active:
                raise EngagementError(
                    f"{self._kind} {unit} is frozen at step {step} and changed in it",
                    "look for code that unfreezes parameters or writes to them",
                )
            if not changed and unit in self._active and max(g["lr"] for g in optimizer.param_groups) > LEAST_RATE:
                log.warning("%s %d was due at step %d and did not change in it", self._kind, unit, step)

    def _hashes(self, unit: int) -> dict[str, str]:
        some = sorted(self._units[unit], key=lambda parameter: parameter.numel())[:TENSORS]
        return tensor_hashes((str(place), parameter) for place, parameter in enumerate(some))
