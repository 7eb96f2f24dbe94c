"""How long steps take, by the lowest layer that trains in them: what a schedule saves, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wheretune.model.freezing import lowest_trained

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.steps import Training

ENOUGH = 2  # timed steps that train from the lowest layer up


class Pace:
    """A follower that times every step but the first of a sitting, which warms up; it comes before all others.

    Args:
        stack: The layers that train.
        now: Seconds since some fixed moment.
    """

    name = "pace"

    def __init__(self, stack: LayerStack, now: Callable[[], float] = time.perf_counter) -> None:
        self._stack, self._now = stack, now
        self._spent: dict[int, tuple[int, float]] = {}  # by lowest layer: steps and seconds
        self._warm = False

    def begin(self, training: Training) -> None:
        self._spent, self._warm = {}, False

    def before_step(self, step: int) -> None:
        self._started = self._now()

    def penalty(self) -> None:
        return None

    def after_step(self, step: int) -> None:
        if self._warm:
            lowest = lowest_trained(self._stack)
            steps, spent = self._spent.get(lowest, (0, 0.0))
            self._spent[lowest] = (steps + 1, spent + self._now() - self._started)
        self._warm = True

    def end(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        import torch

        rows = [(float(lowest), float(steps), spent) for lowest, (steps, spent) in self._spent.items()]
        return {"spent": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)}

    def restore(self, state: dict[str, Tensor]) -> None:
        rows = state["spent"].tolist() if "spent" in state else []
        self._spent = {int(lowest): (int(steps), spent) for lowest, steps, spent in rows}

    def saved(self, counted: float | None) -> dict[str, str]:
        """What moving the lowest layer saved, for the result of a run: as S counts it, and as it was measured.

        Args:
            counted: The share of the backward pass that S's count of layers says; None where it says nothing.
        """
        if counted is None or not self._spent:
            return {}
        lowest = min(self._spent)
        steps, spent = self._spent[lowest]
        said = f"{counted:.3f} of the backward pass, as SALF counts layers"
        if steps < ENOUGH or len(self._spent) == 1:
            return {"cost saving": f"{said}; too few steps to measure it"}
        alone = spent / steps
        mean = sum(took for _, took in self._spent.values()) / sum(count for count, _ in self._spent.values())
        return {
            "cost saving": f"{said}; measured, {1 - mean / alone:.3f} of the time: {1000 * mean:.3g} ms per step, "
            f"{1000 * alone:.3g} ms while layer {lowest} is the lowest that trains"
        }
