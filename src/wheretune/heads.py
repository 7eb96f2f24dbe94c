"""What sits on top of the base model: the parts the papers put there, and the model that joins both.

Both heads read representative tokens. `LastToken` reads the last layer's, `Concat` those of all layers.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from wheretune.anatomy import accepted, find_layers, packed
from wheretune.capture import forward_states, represent, represent_packed
from wheretune.data import TextData
from wheretune.types import Task


@runtime_checkable
class Head(Protocol):
    """Builds what sits on top: a frozen object of settings."""

    name: ClassVar[str]
    all_layers: ClassVar[bool]

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module, from features `(batch, layers * hidden)` or `(batch, hidden)` to `(batch, outputs)`."""


@dataclass(frozen=True)
class LastToken:
    """Dropout and Linear(d -> C) on the last layer's representative token (P 3.2).

    Decided where the paper is silent: dropout 0.1, and for decoders no bias, as in Transformers' own
    sequence classifiers, so that a tuned decoder merges into one of those.
    """

    dropout: float = 0.1
    name: ClassVar[str] = "last-token"
    all_layers: ClassVar[bool] = False

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module."""
        return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(hidden_size, outputs, bias=not causal))


@dataclass(frozen=True)
class Concat:
    """All layers' representative tokens, dropout, Linear(L d -> d), ReLU, Linear(d -> C) (T 3.2, 4.3).

    BERT-base with k = 3 then trains 28.3 M parameters, as P table 3 and T table 4 print.
    """

    dropout: float = 0.3
    name: ClassVar[str] = "concat"
    all_layers: ClassVar[bool] = True

    def build(self, layers: int, hidden_size: int, outputs: int, causal: bool) -> nn.Sequential:
        """The module."""
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(layers * hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, outputs),
        )


def count(head: Head, layers: int, hidden_size: int, outputs: int, causal: bool) -> int:
    """The parameters of a head, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in head.build(layers, hidden_size, outputs, causal).parameters())


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
