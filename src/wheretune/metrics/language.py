"""Metrics of a language model: how likely it finds the tokens that it is to write, each of them counted once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from wheretune.metrics.base import Predictions


@dataclass(frozen=True)
class Loss:
    """The sum over all learned tokens of -log p(token | what stands before it), divided by their number, in nats."""

    name: ClassVar[str] = "loss"
    reads: ClassVar[str] = "likelihood"
    higher_is_better: ClassVar[bool] = False

    def compute(self, predictions: Predictions, truth: Any) -> float | None:
        lost, tokens, _ = predictions.kinds[self.reads].astype(float).sum(0)
        return float(lost / tokens) if tokens else None


@dataclass(frozen=True)
class Perplexity:
    """exp(loss): among how many tokens the model is in doubt, on average."""

    name: ClassVar[str] = "perplexity"
    reads: ClassVar[str] = "likelihood"
    higher_is_better: ClassVar[bool] = False

    def compute(self, predictions: Predictions, truth: Any) -> float | None:
        loss = Loss().compute(predictions, truth)
        return None if loss is None or loss > math.log(1e300) else math.exp(loss)


@dataclass(frozen=True)
class VocabularyAccuracy:
    """The share of the learned tokens that the model finds the likeliest of its whole vocabulary."""

    name: ClassVar[str] = "vocabulary-accuracy"
    reads: ClassVar[str] = "likelihood"
    higher_is_better: ClassVar[bool] = True

    def compute(self, predictions: Predictions, truth: Any) -> float | None:
        _, tokens, right = predictions.kinds[self.reads].astype(float).sum(0)
        return float(right / tokens) if tokens else None
