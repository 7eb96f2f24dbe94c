"""The seconds that go into steps, and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from wheretune.support.log import log
from wheretune.support.progress import progress

if TYPE_CHECKING:
    from transformers import TrainerState


@dataclass(frozen=True)
class TrainLog:
    """What training took, evaluation and saving left out.

    Attributes:
        seconds: Of all sittings.
        steps: Of the optimizer.
        first_step: Seconds of this sitting's first step, which also makes room for the optimizer's state.
        best: The step whose weights are kept and how they did, where they were judged meanwhile.
    """

    seconds: float
    steps: int
    first_step: float = 0.0
    best: tuple[int, float] | None = None

    @property
    def step(self) -> float:
        """Seconds of one step of a training without a stop, the first left out."""
        return (self.seconds - self.first_step) / max(1, self.steps - 1)


class Clock(TrainerCallback):
    """Counts the seconds that go into steps, over all sittings, and moves the progress bar.

    Args:
        description: What the bar says.
        now: Seconds since some fixed moment.

    Attributes:
        description: What the bar says.
        seconds: So far.
        first_step: Seconds of this sitting's first step.
    """

    def __init__(self, description: str, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = 0.0
        self.first_step = 0.0
        self.description, self._now = description, now
        self._started = 0.0
        self._progress = progress()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step:
            log.warning("%s: goes on from step %d of %d", self.description, state.global_step, state.max_steps)
        self._progress.start()
        self._task = self._progress.add_task(self.description, total=state.max_steps, completed=state.global_step)
        self._started = self._now()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.first_step = self.first_step or self._now() - self._started
        self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        shown = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if "train_runtime" not in shown:  # what Trainer sums up in the end stands in the result
            said = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
            self._progress.console.print(
                f"step {state.global_step}: {said}", markup=False, highlight=False, soft_wrap=True
            )

    def pause(self) -> float:
        """Stops counting and returns the seconds so far."""
        self.seconds += self._now() - self._started
        return self.seconds

    def go_on(self) -> None:
        """Counts again."""
        self._started = self._now()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.pause()
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen."""
        self._progress.stop()
