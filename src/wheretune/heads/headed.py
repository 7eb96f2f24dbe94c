"""A headless transformer and a head: what `wheretune tune` trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from wheretune.model.finding import find_layers
from wheretune.model.forward import forward_states, represent, represent_packed
from wheretune.model.inputs import accepted, packed

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.data.texts import TextData
    from wheretune.heads.base import Head
    from wheretune.records.data import Task


class HeadedModel(nn.Module):
    """A headless transformer and a head: what `wheretune tune` trains.

    Called as Trainer calls a model; returns a loss where labels are given: cross-entropy for
    classes, the mean squared error for numbers.

    Args:
        base: The headless transformer.
        head: What to put on top; its weights are drawn with `seed`.
        outputs: The number of classes, or 1 for a regression.
        task: `classification` or `regression`.
        seed: Of the head's weights; the global generator is left as it was.
        centre: The mean training label of a regression, where the head's bias starts if it has one.
        layers_attribute: Where the layers are, if `find_layers` must be told.

    Attributes:
        packed: Whether in training mode the texts of a batch run one after the other, without padding.
    """

    def __init__(
        self,
        base: nn.Module,
        head: Head,
        outputs: int,
        task: Task,
        seed: int,
        centre: float = 0.0,
        layers_attribute: str | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.task = task
        self.packed = False
        self.all_layers = head.all_layers
        self.config = base.config
        self.stack = find_layers(base, layers_attribute)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head: nn.Sequential = head.build(len(self.stack), self.stack.hidden_size, outputs, self.stack.causal)
        self.head.to(next(base.parameters()).device)
        last = [module for module in self.head.modules() if isinstance(module, nn.Linear)][-1]
        if task == "regression" and last.bias is not None:
            nn.init.constant_(last.bias, centre)

    @property
    def base_model(self) -> nn.Module:
        """The headless transformer, under the name that Transformers' own models have for it."""
        return self.base

    def features(self, inputs: dict[str, Tensor], pack: bool = False) -> Float[Tensor, "batch features"]:
        """What the head reads, of texts that run padded or, with `pack`, one after the other."""
        mask = inputs["attention_mask"]
        if self.all_layers:
            return forward_states(self.stack, inputs, pack=pack)[0][:, 1:].flatten(1)
        if pack:
            return represent_packed(self.base(**packed(self.base, inputs))[0], mask, self.stack.causal)
        return represent(self.base(**accepted(self.base, inputs))[0], mask, "token", self.stack.causal)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits `(batch, outputs)`, and the loss if `labels` are given."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        logits: Tensor = self.head(self.features(inputs, pack=self.packed and self.training))
        loss: Any = None
        if labels is not None and self.task == "regression":
            loss = nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def headed(base: nn.Module, head: Head, data: TextData, seed: int, layers_attribute: str | None = None) -> HeadedModel:
    """A headless transformer with a fresh head for the task of `data`; a regression starts at its mean label."""
    centre = float(np.mean(data.labels)) if data.labels and data.info.task == "regression" else 0.0
    outputs = max(len(data.info.classes), 1)
    return HeadedModel(base, head, outputs, data.info.task, seed, centre, layers_attribute)
