"""The states of every batch, streamed to the scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float

from wheretune.data.examples import NOT_LEARNED
from wheretune.errors import ScoreError
from wheretune.model.dispatch import running
from wheretune.model.forward import evaluating, forward_states
from wheretune.model.inputs import model_device, unlabelled
from wheretune.model.states import Meanings, States
from wheretune.model.two_stacks import forward_apart, state_names

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.forward import Reduction
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Collate
    from wheretune.records.scores import Reading


def stream_states(
    stack: LayerStack,
    batches: Iterable[list[dict[str, Any]]],
    collate: Collate,
    reading: Reading,
    reductions: Mapping[str, Reduction] | None = None,
    bases: Float[Tensor, "label hidden"] | None = None,
    targets: Callable[[dict[str, Any]], int] | None = None,
    predicted: Callable[[list[int]], int] | None = None,
) -> Iterator[States]:
    """The states of every batch of encoded rows in fp32, one batch at a time, the model in eval mode.

    Args:
        stack: The layers, in any precision.
        batches: Of encoded rows.
        collate: Makes a batch of rows.
        reading: Says which token is read, and which last state; the batches are made already.
        reductions: What to compute from all tokens, by name; see `forward_states`.
        bases: What the labels mean, to be handed on in `States.meanings`.
        targets: Of an encoded row, which of `bases` is its own.
        predicted: Of the labels of a row's tokens, which token is predicted at the place that represents the row; None
            where the model says which token does.

    Raises:
        ScoreError: A state is not finite; the layer and the row are named.
    """
    device = model_device(stack.base)
    forward = forward_apart if stack.split else forward_states
    for batch in batches:
        inputs = {name: value.to(device) for name, value in collate(batch).items()}
        places = None if predicted is None else _places(inputs, batch, reading, predicted, bool(stack.split))
        read = inputs if predicted is not None else unlabelled(inputs, device)
        with torch.no_grad(), evaluating(stack.base), running(stack.base):
            tokens, reduced = forward(stack, read, reading.pooling, reading.last, reductions, places=places)
        rows = tuple(int(row["row"]) for row in batch)
        _check_finite(tokens, rows, state_names(stack))
        reduced = {name: values.float() for name, values in reduced.items()}
        for name, values in reduced.items():
            layers = [one for one in state_names(stack) if "embed" not in one]
            _check_finite(values.unsqueeze(2), rows, layers, f"what {name} reads of ")
        meanings = None
        if bases is not None and targets is not None:
            meanings = Meanings(bases, torch.tensor([targets(row) for row in batch], device=bases.device))
        yield States(tokens, rows, inputs.get("labels") if predicted is None else None, reduced, meanings)


def _places(
    inputs: Mapping[str, Tensor],
    batch: list[dict[str, Any]],
    reading: Reading,
    predicted: Callable[[list[int]], int],
    apart: bool,
) -> Bool[Tensor, "batch token"] | None:
    """The places of a batch that are read: of every row the one that represents it, or all that predict its targets.

    Of a decoder that writes its own text (`apart`), the place of a token is the one that predicts it.
    """
    mask, labels = inputs["attention_mask"], inputs["labels"]
    if reading.pooling == "mean":
        return None
    if apart:
        places = labels != NOT_LEARNED
        if reading.pooling == "token":
            own = torch.tensor([predicted(row["labels"]) for row in batch], device=mask.device)
            places = torch.arange(labels.shape[1], device=mask.device) == own.unsqueeze(1)
        return places
    if reading.pooling == "targets":
        return torch.cat([labels[:, 1:] != NOT_LEARNED, torch.zeros_like(mask[:, :1], dtype=torch.bool)], dim=1)
    places = torch.zeros_like(mask, dtype=torch.bool)
    first = mask.argmax(1)  # of a row that is padded on the left, its own first token
    own = torch.tensor([predicted(row["labels"]) - 1 for row in batch], device=mask.device)
    places[torch.arange(len(batch), device=mask.device), first + own] = True
    return places


def _check_finite(
    tokens: Float[Tensor, "batch place _"], rows: tuple[int, ...], names: list[str], what: str = "the output of "
) -> None:
    bad = ~torch.isfinite(tokens).all(dim=2)
    if bad.any():
        place = int(bad.any(dim=0).nonzero()[0])
        row = rows[int(bad[:, place].nonzero()[0])]
        raise ScoreError(
            f"{what}{names[place]} is not finite for row {row + 1} (the first row is 1)",
            "check the model's weights and that text",
        )
