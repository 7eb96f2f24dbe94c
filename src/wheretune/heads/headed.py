"""A headless transformer and a head: what `wheretune tune` trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.heads.top import TopModel
from wheretune.model.classifier import plain_classifier
from wheretune.model.forward import forward_states, represent, represent_packed, token_first
from wheretune.model.inputs import accepted, packed
from wheretune.model.two_stacks import forward_apart, run
from wheretune.records.base import Spec
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from wheretune.data.texts import TextData
    from wheretune.heads.base import Drawn, Head
    from wheretune.heads.top import Objective
    from wheretune.model.stack import LayerStack


class HeadedModel(TopModel):
    """A headless transformer and a head: what `wheretune tune` trains.

    Called as Trainer calls a model; returns the task's loss where labels are given.

    Args:
        stack: The layers of the headless transformer.
        head: What to put on top; its weights are drawn with `seed`.
        outputs: How many outputs the head has.
        task: What is learned.
        seed: Seed for the head's weights; the global generator is left as it was.
        start: Where the head's bias starts, if it has one; None leaves it as it is drawn.

    Attributes:
        packed: Whether in training mode the texts of a batch run one after the other, without padding.

    Raises:
        ConfigError: The task reads every token, and the head one per text.
    """

    several = False
    auto = "AutoModelForSequenceClassification"

    def __init__(
        self, stack: LayerStack, head: Drawn, outputs: int, task: Objective, seed: int, start: float | None = None
    ) -> None:
        super().__init__()
        if task.places != "one":
            raise ConfigError(f"{task.name} reads every token, and the head {head.name} one per text", "name another")
        self.stack = stack
        self.base = stack.base
        self.config = stack.base.config
        self.task = task
        self.packed = False
        self.read = None
        self.all_layers = head.all_layers
        if head.all_layers and not stack.split:
            token_first(stack)  # seen now, while nothing hangs on the model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head: nn.Sequential = head.build(len(stack), stack.hidden_size, outputs, stack.causal)
        self.head.to(next(stack.base.parameters()).device)
        last = self.maps[-1]
        if start is not None and last.bias is not None:
            nn.init.constant_(last.bias, start)

    @property
    def base_path(self) -> str:
        return "base"

    def plain(self, classes: Sequence[str], problem_type: str | None, pad_token_id: int) -> nn.Module | None:
        """The family's own sequence classifier, where it can compute the head."""
        if self.all_layers or problem_type is None:
            return None
        return plain_classifier(self.base, self.maps, tuple(classes), problem_type, pad_token_id)

    @property
    def maps(self) -> list[nn.Linear]:
        return [part for part in self.head.modules() if isinstance(part, nn.Linear)]

    def features(self, inputs: dict[str, Tensor], pack: bool = False) -> Float[Tensor, "batch features"]:
        mask = inputs["attention_mask"]
        if self.stack.split:
            return self._of_two(inputs)
        if self.all_layers:
            return forward_states(self.stack, inputs, pack=pack)[0][:, 1:].flatten(1)
        if pack:
            return represent_packed(self.base(**packed(self.base, inputs))[0], mask, self.stack.causal)
        return represent(self.base(**accepted(self.base, inputs))[0], mask, "token", self.stack.causal)

    def _of_two(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        """What the head reads of an encoder-decoder that reads a text with both its parts.

        As in Transformers' own classifiers it is the decoder's state at the last token; or the states that every layer
        of both puts out, the encoder's at the first.
        """
        if not self.all_layers:
            return represent(run(self.base, inputs), inputs["attention_mask"], "token", causal=True)
        states, _ = forward_apart(self.stack, inputs)
        behind = self.stack.split + 1  # where the states of the decoder begin, with those of its embeddings
        return torch.cat([states[:, 1:behind], states[:, behind + 1 :]], dim=1).flatten(1)

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
        loss = None if labels is None else self.task.loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def headed(stack: LayerStack, head: Head | None, data: TextData, seed: int) -> TopModel:
    """A transformer with a fresh head for the task of `data`.

    Args:
        stack: The layers of the headless transformer, or of the language model where the head `speaks`.
        head: What to put on top; None takes the head that the task has by default.
        data: The training data.
        seed: Seed for the head's weights.

    Raises:
        ConfigError: The head does not read what the task needs.
        ModelError: The model cannot bear the head.
    """
    task = task_of(data.info)
    head = catalog.build("head", Spec(task.head)) if head is None else head
    start = task.start(data.labels) if data.labels else None
    return head.on(stack, task.outputs(data.info.classes), task, seed, start)
