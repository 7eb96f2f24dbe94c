"""Tune no layer at all, only what sits on top: the baseline that says what tuning layers is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from wheretune.tuners.base import Attached
from wheretune.types import LayerScore, LayerStack, ModelInfo


@dataclass(frozen=True)
class HeadOnly:
    """The head trains on the frozen model's states (linear probing)."""

    name: ClassVar[str] = "head-only"
    needs_layers: ClassVar[bool] = False

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Adds nothing."""
        return Attached([])

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """None."""
        return 0
