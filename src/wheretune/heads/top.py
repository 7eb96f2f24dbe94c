"""What a model with a head on top is, for those who train it, leave computations out, keep it and merge it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack


@runtime_checkable
class Objective(Protocol):
    """What a model with a head needs to know of a task.

    Attributes:
        name: For messages.
        places: Whether `one` token per text is read, the representative one, or `every` token.
    """

    name: ClassVar[str]
    places: ClassVar[Literal["one", "every"]]

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The mean loss of a batch; where every token is read, of some places and the tokens that follow them."""


class TopModel(nn.Module):
    """A transformer with a head, called as Trainer calls a model; abstract.

    Called with `labels` it gives a loss; in eval mode `logits` hold a row of numbers per text, which the task reads.

    Attributes:
        stack: The layers.
        task: What is learned.
        packed: Whether in training mode the texts of a batch run one after the other, without padding.
        all_layers: Whether the head reads the representative token of every layer.
        several: Whether it reads several tokens of a text.
        read: While the base model runs, the places (batch, token) whose last states are read, where these are several.
    """

    stack: LayerStack
    task: Objective
    packed: bool
    all_layers: bool
    several: ClassVar[bool]
    read: Tensor | None
    auto: str  # what opens the model that `plain` gives

    @property
    def base_model(self) -> nn.Module:
        """The headless transformer, under the name that Transformers' own models have for it."""
        return self.stack.base

    @property
    @abstractmethod
    def base_path(self) -> str:
        """Where the headless transformer is in this model."""

    @property
    def maps(self) -> Sequence[nn.Linear]:
        """The linear maps that were made anew for the task, in their order; none where the head is the model's own."""
        return ()

    @abstractmethod
    def features(self, inputs: dict[str, Tensor], pack: bool = False) -> Float[Tensor, "place feature"]:
        """What the head reads, of texts that run padded or, with `pack`, one after the other.

        Args:
            inputs: A batch; with its labels, where what is read hangs on them.
            pack: Run the texts one after the other.
        """

    @abstractmethod
    def plain(self, classes: Sequence[str], problem_type: str | None, pad_token_id: int) -> nn.Module | None:
        """A model of Transformers' own that may compute the same; None where none can.

        Args:
            classes: The names of the classes, if there are any.
            problem_type: What Transformers calls the task.
            pad_token_id: Of the tokenizer.
        """
