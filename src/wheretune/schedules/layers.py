"""What schedules of whole layers share: what they need of a plan, and their first state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import State


def first_state(layers: int, chosen: Sequence[int], steps: int, seed: int) -> State:
    """All that a schedule of layers hangs on: it never changes."""
    return {
        "layers": np.array(layers),
        "chosen": np.array(chosen, dtype=np.int64),
        "steps": np.array(steps),
        "seed": np.array(seed),
    }


def check_layers(schedule: str, chosen: int, tuner: Spec, least: int = 1) -> None:
    """Refuses a plan with fewer layers than a schedule needs.

    Raises:
        ConfigError: It has fewer.
    """
    if chosen == 0:
        raise ConfigError(
            f"the schedule {schedule} moves through layers, and {tuner.name} tunes none",
            "take another tuner, or the schedule static",
            "schedule",
        )
    if chosen < least:
        raise ConfigError(
            f"the schedule {schedule} trains {least} layers at a time, and the plan has {chosen}",
            f"train {chosen} or fewer at a time ({schedule}:layers={chosen}), or choose more where the model has more",
            "schedule",
        )


def check_own_weights(schedule: str, does: str, tuner: Spec) -> None:
    """Refuses a tuner that trains other weights than the model's own.

    Args:
        schedule: The schedule's name.
        does: What it does to these, as in "ranks the model's own weights".
        tuner: How layers are tuned.

    Raises:
        ConfigError: It trains others.
    """
    if tuner.name != "full":
        raise ConfigError(
            f"the schedule {schedule} {does}, and {tuner.name} trains others",
            "take the tuner full, or another schedule",
            "schedule",
        )
