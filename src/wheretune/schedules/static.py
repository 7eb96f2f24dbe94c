"""The chosen layers train at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import OptimizerState, Signal, State, Unit


@dataclass(frozen=True)
class Static:
    """The chosen layers train from the first step to the last."""

    name: ClassVar[str] = "static"
    moves: ClassVar[bool] = False
    unit: ClassVar[Unit] = "layer"
    observes: ClassVar[tuple[Signal, ...]] = ()
    optimizer_state: ClassVar[OptimizerState] = "keep"
    embeddings: ClassVar[bool | None] = None

    def check(self, chosen: int, tuner: Spec) -> None:
        """Serves every tuner and any number of layers."""

    def expected(self, chosen: int) -> tuple[float, ...]:
        return (1.0,) * chosen

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        return {"layers": np.array(layers), "chosen": np.array(chosen, dtype=np.int64)}

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        return state

    def active(self, state: State, step: int) -> frozenset[int]:
        return frozenset(state["chosen"].tolist())

    def lowest(self, state: State, step: int) -> int:
        return min(self.active(state, step), default=int(state["layers"]))
