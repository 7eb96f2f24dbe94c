"""The states of every batch, streamed to the scorers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from wheretune.errors import ScoreError
from wheretune.model.forward import evaluating, forward_states
from wheretune.model.states import Meanings, States

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
    targets: Mapping[int, int] | None = None,
) -> Iterator[States]:
    """The states of every batch of encoded rows in fp32, one batch at a time, the model in eval mode.

    Args:
        stack: The layers, in any precision.
        batches: Of encoded rows.
        collate: Makes a batch of rows.
        reading: Says which token is read, and which last state; the batches are made already.
        reductions: What to compute from all tokens, by name; see `forward_states`.
        bases: What the labels mean, to be handed on in `States.meanings`.
        targets: By row, which of `bases` is its own.

    Raises:
        ScoreError: A state is not finite; the layer and the row are named.
    """
    device = next(stack.base.parameters()).device
    for batch in batches:
        inputs = {name: value.to(device) for name, value in collate(batch).items()}
        with torch.no_grad(), evaluating(stack.base):
            tokens, reduced = forward_states(stack, inputs, reading.pooling, reading.last, reductions)
        rows = tuple(int(row["row"]) for row in batch)
        _check_finite(tokens, rows)
        reduced = {name: values.float() for name, values in reduced.items()}
        for name, values in reduced.items():
            _check_finite(torch.cat([values[:, :1], values], 1).unsqueeze(2), rows, f"what {name} reads of ")
        meanings = None
        if bases is not None and targets is not None:
            meanings = Meanings(bases, torch.tensor([targets[row] for row in rows], device=bases.device))
        yield States(tokens, rows, inputs.get("labels"), reduced, meanings)


def _check_finite(
    tokens: Float[Tensor, "batch layer_plus_1 _"], rows: tuple[int, ...], what: str = "the output of "
) -> None:
    bad = ~torch.isfinite(tokens).all(dim=2)
    if bad.any():
        layer = int(bad.any(dim=0).nonzero()[0])
        row = rows[int(bad[:, layer].nonzero()[0])]
        where = "the embeddings" if layer == 0 else f"layer {layer - 1}"
        raise ScoreError(
            f"{what}{where} is not finite for row {row + 1} (the first row is 1)",
            "check the model's weights and that text",
        )
