"""A model and rows -> predictions -> metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from wheretune.data.batches import length_batches
from wheretune.errors import ConfigError, TrainingError
from wheretune.metrics.base import evaluate
from wheretune.model.forward import evaluating
from wheretune.model.inputs import unlabelled
from wheretune.support.progress import progress

if TYPE_CHECKING:
    from torch import nn

    from wheretune.data.texts import TextData
    from wheretune.records.data import Collate
    from wheretune.records.runs import Metric


def predict(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    batch_size: int = 32,
    description: str = "predicting",
) -> Float[np.ndarray, "row output"]:
    """The logits of every row, in the order of the rows, the model in eval mode and left as it was.

    Raises:
        ConfigError: The batch size is below 1.
        TrainingError: A logit is not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "give 1 or more")
    device = next(model.parameters()).device
    logits: dict[int, np.ndarray] = {}
    batches = length_batches(rows, batch_size)
    with progress() as shown, torch.no_grad(), evaluating(model):
        for batch in shown.track(batches, description=description):
            inputs = unlabelled(collate(batch), device)
            for row, values in zip(batch, model(**inputs).logits.float().cpu().numpy(), strict=True):
                logits[row["row"]] = values
    found = np.stack([logits[row["row"]] for row in rows])
    if not np.isfinite(found).all():
        raise TrainingError("the model's outputs are not finite: training diverged", "lower the learning rate")
    return found


def measure(model: nn.Module, data: TextData, rows: list[dict[str, Any]], collate: Any) -> tuple[Metric, ...]:
    """The metrics of a model on labelled rows."""
    logits = predict(model, rows, collate, description="evaluating")
    return evaluate(logits, np.array(data.labels), data.info.task)
