"""One forward pass, hooks on and off: the representative token of the embeddings and of every layer.

The same function serves scoring (under no_grad, streamed) and the `concat` head (with the graph).
Each hook copies one token a sample out of the layer's output, so no layer's full output is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wheretune.errors import ModelError
from wheretune.model.calls import layer_input
from wheretune.model.inputs import accepted, packed, representative_positions

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch
    from wheretune.records.scores import LastState, Pooling


def represent(
    hidden: Float[Tensor, "batch token hidden"],
    mask: Int[Tensor, "batch token"],
    pooling: Pooling,
    causal: bool,
) -> Float[Tensor, "batch hidden"]:
    """The representative token of each sample, or the mean over its unmasked tokens, in fp32."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(torch.float32)
        return (hidden.float() * weights).sum(1) / weights.sum(1)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, representative_positions(mask, causal)].float()


def represent_packed(
    hidden: Float[Tensor, "1 place hidden"], mask: Int[Tensor, "batch token"], causal: bool
) -> Float[Tensor, "batch hidden"]:
    """The representative token of each sample in what `anatomy.packed` made of a batch with this mask, in fp32."""
    rows = torch.arange(len(mask), device=mask.device)
    places = (mask != 0).flatten().cumsum(0).view_as(mask) - 1
    return hidden[0, places[rows, representative_positions(mask, causal)]].float()


Reduction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From a layer's input, its output (batch, token, hidden) and the mask (batch, token) to a number a sample."""


def forward_states(
    stack: LayerStack,
    inputs: Batch,
    pooling: Pooling = "token",
    last: LastState = "normed",
    reductions: Mapping[str, Reduction] | None = None,
    pack: bool = False,
) -> tuple[Float[Tensor, "batch layer_plus_1 hidden"], dict[str, Float[Tensor, "batch layer"]]]:
    """Runs the base model once and returns the representative token before layer 0 and after every layer.

    Args:
        stack: Whose base model to run (no head, no logits).
        inputs: `input_ids`, `attention_mask` and what else the tokenizer made, on the model's device.
        pooling: The representative token, or the mean over unmasked tokens.
        last: `normed` takes the last layer's state after the final norm, as `output_hidden_states` gives
            it (the papers' code); `raw` takes the layer's own output.
        reductions: What to compute from all tokens of a layer's input and output while they are there.
        pack: Run the texts one after the other, without padding; for the representative token alone.

    Returns:
        The representative tokens, and what each reduction made of every layer.

    Raises:
        ModelError: A layer did not run in the forward pass.
    """
    assert not pack or (pooling == "token" and not reductions)
    mask = inputs["attention_mask"]
    tokens: list[Tensor | None] = [None] * (len(stack) + 1)
    reduced: dict[str, list[Tensor]] = {name: [] for name in reductions or {}}
    before: list[Tensor] = []  # the full input of the layer that runs now; kept for reductions only

    def keep(index: int, hidden: Any) -> None:
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if hidden.shape[-1] != stack.hidden_size:
            raise ModelError(
                f"{type(stack.base).__name__} gives states of {hidden.shape[-1]} dimensions, its layers of "
                f"{stack.hidden_size}",
                "take the last layer's own with --last-state raw",
            )
        if pack:
            tokens[index] = represent_packed(hidden, mask, stack.causal)
        else:
            tokens[index] = represent(hidden, mask, pooling, stack.causal)
        if reductions:
            for name, reduction in reductions.items():
                if index > 0:
                    reduced[name].append(reduction(before[0], hidden, mask))
            before[:] = [hidden]

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0, layer_input(args, kwargs))

    def leave(index: int) -> Any:
        return lambda _module, _args, output: keep(index + 1, output)

    own = stack.layers if last == "raw" else stack.layers[:-1]
    hooks = [stack.layers[0].module.register_forward_pre_hook(enter, with_kwargs=True)]
    hooks += [layer.module.register_forward_hook(leave(layer.index)) for layer in own]
    try:
        output = stack.base(**(packed if pack else accepted)(stack.base, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    if last == "normed":
        keep(len(stack), output[0])
    missing = [index for index, state in enumerate(tokens) if state is None]
    if missing:
        raise ModelError(f"layer {max(missing[0] - 1, 0)} did not run", "check the model's layer dropping")
    found = {name: torch.stack(values, dim=1) for name, values in reduced.items()}
    return torch.stack([state for state in tokens if state is not None], dim=1), found


def closeness(base: nn.Module, fine: float) -> float:
    """How near to each other two ways of computing the same may be expected: `fine`, or 2^-4 where not all is fp32."""
    return fine if all(parameter.dtype == torch.float32 for parameter in base.parameters()) else 2**-4


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for every module inside, and the mode each had before outside."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
