"""One backward pass: what the loss of a fresh head asks of every layer, batch by batch, without training.

The head is the task's own: freshly drawn from the reading's seed, or the language model's. Dropout is off, so the
numbers repeat. Only the layers' parameters get a gradient, and only norms and squares of it leave this room: two
batches' gradients are never held at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from wheretune.data.examples import NOT_LEARNED
from wheretune.errors import ScoreError
from wheretune.heads.headed import headed
from wheretune.model.dispatch import check_held
from wheretune.model.forward import evaluating
from wheretune.model.states import Gradients

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.data.texts import TextData
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch, Collate


def stream_gradients(
    stack: LayerStack,
    data: TextData,
    batches: Iterable[list[dict[str, Any]]],
    collate: Collate,
    per_sample: bool = False,
    seed: int = 0,
) -> Iterator[Gradients]:
    """The gradients of every batch of encoded rows, one batch at a time, the model in eval mode.

    Args:
        stack: Whose layers; the model is left as it was, its `grad` fields untouched.
        data: Says the task.
        batches: Of encoded rows with labels.
        collate: Makes a batch of rows.
        per_sample: Run every sample alone, for its own gradient; the batch's is their mean. Slower, by as much as the
            machine gains from batches. (`torch.func.vmap` cannot run Transformers' attention masks, whose code branches
            on the data.)
        seed: Seed for the head.

    Raises:
        ModelError: Weights of the model are offloaded.
        ScoreError: A gradient is not finite; the layer and the rows are named.
    """
    check_held(stack.base, "a gradient")
    model = headed(stack, None, data, seed)
    groups = [list(layer.module.parameters()) for layer in stack.layers]
    sizes = torch.tensor([sum(p.numel() for p in group) for group in groups])
    for batch in batches:
        parts = [collate(part) for part in ([[row] for row in batch] if per_sample else [batch])]
        total, squares = _gradients(model, parts, groups)
        rows = tuple(int(row["row"]) for row in batch)
        batch_squares = _squares(total, groups)
        _check_finite(batch_squares, rows, groups)
        yield Gradients(
            norms=batch_squares.sqrt(),
            squares=squares / sizes if per_sample else None,
            batch_squares=batch_squares / sizes,
            sample_ids=rows,
        )


def _gradients(
    model: nn.Module, parts: Sequence[Batch], groups: list[list[nn.Parameter]]
) -> tuple[list[Tensor], Float[Tensor, "part layer"]]:
    """The gradient of the mean loss of all parts in fp32, and each part's own sum of squares of every layer."""
    wanted = [parameter for group in groups for parameter in group]
    total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in wanted]
    device, squares = wanted[0].device, []
    counts = [_learned(part["labels"]) for part in parts]
    for part, count in zip(parts, counts, strict=True):
        inputs = {name: value.to(device) for name, value in part.items()}
        with torch.enable_grad(), evaluating(model), _needing_gradients(wanted):
            found = torch.autograd.grad(model(**inputs).loss, wanted, allow_unused=True)
        for place, gradient in zip(total, found, strict=True):
            if gradient is not None:
                place += gradient.float() * (count / sum(counts))
        squares.append(_squares(found, groups))
    return total, torch.stack(squares)


def _learned(labels: Tensor) -> int:
    """Over how many things a batch's loss is a mean: its rows, or the tokens of them that are learned."""
    return len(labels) if labels.ndim == 1 else int((labels != NOT_LEARNED).sum())


def _squares(gradients: Iterable[Tensor | None], groups: list[list[nn.Parameter]]) -> Float[Tensor, " layer"]:
    """The sum of the squared gradient of every layer, in fp64 on the CPU."""
    every = iter(gradients)
    sums = []
    for group in groups:
        found = [gradient for gradient in (next(every) for _ in group) if gradient is not None]
        sums.append(sum((float(g.float().square().sum(dtype=torch.float64)) for g in found), start=0.0))
    return torch.tensor(sums, dtype=torch.float64)


@contextmanager
def _needing_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad = True
    try:
        yield
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.requires_grad = needed


def _check_finite(squares: Tensor, rows: tuple[int, ...], groups: list[list[nn.Parameter]]) -> None:
    bad = (~torch.isfinite(squares)).nonzero()
    if len(bad):
        spoilt = [layer for layer, group in enumerate(groups) if not all(p.isfinite().all() for p in group)]
        if spoilt:  # it spoils the gradients of all layers: name the culprit
            raise ScoreError(f"layer {spoilt[0]} has weights that are not finite", "give a model whose weights are")
        shown = ", ".join(str(row + 1) for row in rows[:5]) + (" ..." if len(rows) > 5 else "")
        raise ScoreError(
            f"the gradient of layer {int(bad[0])} is not finite for rows {shown} (the first row is 1)",
            "check the model's weights and those texts",
        )
