"""A language model that learns some of the tokens it reads or writes: what `wheretune tune` trains for these tasks.

Logits are made only where a token is learned, and of so many places at a time that no matrix of places x vocabulary
ever stands in memory: of every chunk the loss and its gradient with respect to the states are computed at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import CausalLMOutput

from wheretune.data.examples import NOT_LEARNED
from wheretune.errors import ConfigError
from wheretune.heads.top import TopModel
from wheretune.model.inputs import accepted, packed, representative_positions
from wheretune.model.sight import opened_by
from wheretune.model.speech import Speech
from wheretune.model.two_stacks import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from wheretune.heads.top import Objective
    from wheretune.model.stack import LayerStack

NUMBERS = {"cuda": 2**27}  # logits that are made at a time, by kind of device
FEW = 2**23  # on the others: more do not make a CPU faster, and take memory


class SpeakingModel(TopModel):
    """A language model with its own output matrix, which learns the tokens that `labels` name.

    Called as Trainer calls a model; returns the task's loss where labels are given. In eval mode `logits` are then a
    few numbers per row: the sum of -log p over its learned tokens, how many these are, how many of them are the most
    likely token of the whole vocabulary, and the logits of `choices` where these are given. Without labels they are the
    logits of what follows each text.

    Args:
        stack: The layers of a language model.
        task: What is learned.
        train: The output matrix trains too.

    Raises:
        ConfigError: The task reads one token per text; the output matrix is to train, and is the embeddings too.
        ModelError: It is no causal language model.
    """

    accepts_loss_kwargs = True  # Trainer counts the learned tokens of all batches of a step
    several = True

    def __init__(self, stack: LayerStack, task: Objective, train: bool = False) -> None:
        super().__init__()
        if task.places != "every":
            raise ConfigError(
                f"{task.name} reads one token per text, and the head lm every one", "name another head", "head"
            )
        self.speech = Speech(stack)
        if train and self.speech.tied:
            raise ConfigError(
                f"the output matrix of {type(stack.model).__name__} is its embeddings too, which would train with it",
                "leave the head lm frozen, or train both (tuner full:embeddings=true)",
                "head",
            )
        self.stack = stack
        self.apart = bool(stack.split)
        self.language: nn.Module = stack.model
        self.config = stack.base.config
        self.auto = opened_by(self.config)
        self.task = task
        self.train_output = train
        self.packed = self.all_layers = False
        self.read = None

    @property
    def base_path(self) -> str:
        return f"language.{self.stack.base_path}".removesuffix(".")  # T5 is its own base model

    def get_output_embeddings(self) -> nn.Module | None:
        """What on top stays frozen, as `freezing.head_parameters` asks for it."""
        return None if self.train_output else self.speech.output

    def features(self, inputs: dict[str, Tensor], pack: bool = False) -> Float[Tensor, "place hidden"]:
        """The last states at the places that predict a learned token, and of a text without any at its last."""
        if self.apart:
            labels = inputs.get("labels")
            first = inputs["input_ids"][:, :1]  # without labels the first token alone is written
            read = inputs | {"labels": first} if labels is None else inputs
            return run(self.base_model, read)[self.places(inputs["attention_mask"], read["labels"])]
        places = self.places(inputs["attention_mask"], inputs.get("labels"))
        self.read = places[inputs["attention_mask"] != 0].unsqueeze(0) if pack else places
        try:
            states: Tensor = self.base_model(**(packed if pack else accepted)(self.base_model, inputs))[0]
            return states[self.read]
        finally:
            self.read = None

    def places(
        self, mask: Int[Tensor, "batch token"], labels: Int[Tensor, "batch written"] | None
    ) -> Bool[Tensor, "batch written"]:
        """The places that are read: those that predict a learned token, of what an encoder-decoder writes its own."""
        if self.apart and labels is not None:
            return labels != NOT_LEARNED
        return read_places(mask, labels)

    def plain(self, classes: Sequence[str], problem_type: str | None, pad_token_id: int) -> nn.Module:
        return self.language

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        choices: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **seen: Tensor,
    ) -> CausalLMOutput:
        """The loss, summed over the learned tokens and divided by their number in the step; see the class for logits.

        Args:
            input_ids: The tokens.
            attention_mask: Which of them are no padding.
            labels: The tokens that are learned, -100 elsewhere.
            choices: By row, tokens whose logits are wanted at its first place.
            num_items_in_batch: Learned tokens in all batches of the step; those of this one by default.
            seen: What the model reads of images, as its processor calls it.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **seen}
        if labels is None:
            return CausalLMOutput(logits=self.speech.logits(self.features(inputs)).float())
        states = self.features(inputs | {"labels": labels}, pack=self.packed and self.training)
        places = self.places(attention_mask, labels)
        targets = (labels if self.apart else _next(labels))[places]
        learned = targets != NOT_LEARNED
        spoken = Spoken(self.speech, self.task.loss, judged=not self.training)
        total, found = spoken(states if bool(learned.all()) else states[learned], targets[learned])
        loss = total / (learned.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.training:
            return CausalLMOutput(loss=loss)
        rows = places.nonzero()[:, 0]
        numbers = found.new_zeros(len(labels), 3).index_add_(0, rows[learned], found)
        if choices is not None:
            counts = rows.bincount(minlength=len(labels))
            first = states[counts.cumsum(0) - counts]
            numbers = torch.cat([numbers, spoken.chosen(first, choices)], dim=1)
        return CausalLMOutput(loss=loss, logits=numbers)


def read_places(
    mask: Int[Tensor, "batch token"], labels: Int[Tensor, "batch token"] | None
) -> Bool[Tensor, "batch token"]:
    """The places that predict a learned token, and the last one of a text that has none, (batch, token)."""
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[torch.arange(len(mask), device=mask.device), representative_positions(mask, causal=True)] = True
    if labels is None:
        return last
    places = _next(labels) != NOT_LEARNED
    return torch.where(places.any(1, keepdim=True), places, last)


def _next(labels: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """By place, the label of the next one."""
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), NOT_LEARNED)], dim=1)


@dataclass(frozen=True, eq=False)
class Spoken:
    """What is said at some places, a chunk of them at a time.

    Attributes:
        speech: From states to logits.
        loss: The mean loss of some logits and the tokens that follow.
        judged: Whether it is also to be said how good each place is.
    """

    speech: Speech
    loss: Callable[[Any, Any], Any]
    judged: bool

    def __call__(
        self, states: Float[Tensor, "place hidden"], targets: Int[Tensor, " place"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "judged 3"]]:
        """The sum of the loss over all places; and by place, if that is judged, -log p, 1 and whether it is likeliest.

        A gradient flows to the states, and to what of the output matrix requires one.
        """
        trained = [parameter for parameter in self.speech.output.parameters() if parameter.requires_grad]
        total, found = _Chunks.apply(self, states, targets, *trained)  # type: ignore[no-untyped-call]
        return total, found

    def at_a_time(self, device: torch.device) -> int:
        """How many places are said at a time."""
        return int(max(16, NUMBERS.get(device.type, FEW) // self.speech.matrix.shape[0]))

    def chosen(
        self, states: Float[Tensor, "row hidden"], choices: Int[Tensor, "row choice"]
    ) -> Float[Tensor, "row choice"]:
        """The logits of some tokens at some places."""
        size = self.at_a_time(states.device)
        with torch.no_grad():
            parts = (slice(start, start + size) for start in range(0, len(states), size))
            return torch.cat([self.speech.logits(states[part]).float().gather(1, choices[part]) for part in parts])


class _Chunks(torch.autograd.Function):
    """The loss of all places, whose gradients are computed with it, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, spoken: Spoken, states: Tensor, targets: Tensor, *trained: Tensor) -> tuple[Tensor, Tensor]:
        wants_states, wanted = ctx.needs_input_grad[1], list(trained)
        size = spoken.at_a_time(states.device)
        total = torch.zeros((), device=states.device)
        down = torch.empty_like(states) if wants_states else None
        own = [torch.zeros_like(parameter) for parameter in wanted]
        judged = []
        for start in range(0, len(states), size):
            part, tokens = states[start : start + size], targets[start : start + size]
            with torch.set_grad_enabled(wants_states or bool(wanted)), _watched(spoken.speech.output) as maps:
                leaf = part.detach().requires_grad_(wants_states)
                logits = spoken.speech.logits(leaf).float()
                loss = spoken.loss(logits, tokens) * len(tokens)
            total += loss.detach()
            if spoken.judged:
                judged.append(_judged(logits.detach(), tokens))
            states_gradient = _add_gradients(loss, leaf if wants_states else None, wanted, own, maps)
            if down is not None and states_gradient is not None:
                down[start : start + size] = states_gradient
            del logits, loss, maps
        numbers = torch.cat(judged) if judged else states.new_zeros(len(states) if spoken.judged else 0, 3).float()
        ctx.save_for_backward(*([down] if down is not None else []), *own)
        ctx.mark_non_differentiable(numbers)
        return total, numbers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a copy of the matrix would come on top of all that the backward pass still needs
        saved = [one.mul_(gradient.to(one.dtype)) for one in ctx.saved_tensors]
        down = saved.pop(0) if ctx.needs_input_grad[1] else None
        return (None, down, None, *saved)


@contextmanager
def _watched(output: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Notes what goes into a linear output matrix inside, and what comes out; of any other it notes nothing."""
    noted: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        if type(output) is nn.Linear and given and made.dtype == output.weight.dtype == given[0].dtype:
            noted.append((given[0].detach(), made))

    hook = output.register_forward_hook(note)
    try:
        yield noted
    finally:
        hook.remove()


def _add_gradients(
    loss: Tensor, leaf: Tensor | None, wanted: list[Tensor], own: list[Tensor], maps: list[tuple[Tensor, Tensor]]
) -> Tensor | None:
    """Adds a chunk's gradients of the output matrix to `own`; returns that of the states, where there is a leaf of it.

    Where the matrix was called once, plainly, its gradient is added in place: autograd would make one of the size of
    the matrix for every chunk.
    """
    states = [] if leaf is None else [leaf]
    if not states and not wanted:
        return None
    once = bool(wanted) and len(maps) == 1
    found = torch.autograd.grad(loss, [*states, *([maps[0][1]] if once else wanted)])
    if once:
        given, above = (one.flatten(0, -2) for one in (maps[0][0], found[-1]))
        for sum_ in own:
            _ = sum_.addmm_(above.T, given) if sum_.dim() == 2 else sum_.add_(above.sum(0))
    else:
        for sum_, more in zip(own, found[len(states) :], strict=True):
            sum_ += more
    return found[0] if states else None


def _judged(logits: Float[Tensor, "place token"], tokens: Int[Tensor, " place"]) -> Float[Tensor, "place 3"]:
    lost = cross_entropy(logits, tokens, reduction="none")
    return torch.stack([lost, torch.ones_like(lost), (logits.argmax(1) == tokens).float()], dim=1)
