"""What happens while a model trains, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerState

    from wheretune.tuners.base import Companion


class Accompany(TrainerCallback):
    """Calls the tuner's companion at its times."""

    def __init__(self, companion: Companion) -> None:
        self.companion = companion

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.companion.begin(state.max_steps)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.companion.after_step(state.global_step + 1)  # Trainer counts a step when it is over
