"""Tune no layer at all, only what sits on top: the baseline that says what tuning layers is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wheretune.tuners.base import Attached

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True)
class HeadOnly:
    """The head trains on the frozen model's states (linear probing)."""

    name: ClassVar[str] = "head-only"
    needs_layers: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 4e-3
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Adds nothing."""
        return Attached([])

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """None."""
        return 0
