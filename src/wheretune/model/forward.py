"""One forward pass, hooks on and off: the representative token of the embeddings and of every layer.

The same function serves scoring (under no_grad, streamed) and the `concat` head (with the graph).
Each hook copies one token per text out of the layer's output, so no layer's full output is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wheretune.errors import ModelError
from wheretune.model.calls import watch_input, watch_output
from wheretune.model.inputs import accepted, model_device, packed, representative_positions

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch
    from wheretune.records.scores import LastState, Pooling


def represent(
    hidden: Float[Tensor, "batch token hidden"],
    mask: Int[Tensor, "batch token"] | Bool[Tensor, "batch token"],
    pooling: Pooling,
    causal: bool,
) -> Float[Tensor, "batch hidden"]:
    """The representative token of each sample, or the mean over its unmasked tokens, in fp32."""
    mask = mask.to(hidden.device)  # the layers of one model may lie on several devices
    if pooling != "token":
        weights = mask.unsqueeze(-1).to(torch.float32)
        return (hidden.float() * weights).sum(1) / weights.sum(1)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, representative_positions(mask, causal)].float()


def represent_packed(
    hidden: Float[Tensor, "1 place hidden"], mask: Int[Tensor, "batch token"], causal: bool
) -> Float[Tensor, "batch hidden"]:
    """The representative token of each sample in what `inputs.packed` made of a batch with this mask, in fp32."""
    rows = torch.arange(len(mask), device=mask.device)
    places = (mask != 0).flatten().cumsum(0).view_as(mask) - 1
    return hidden[0, places[rows, representative_positions(mask, causal)]].float()


Reduction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From a layer's input, its output (batch, token, hidden) and the mask (batch, token) to a number per text."""


def forward_states(
    stack: LayerStack,
    inputs: Batch,
    pooling: Pooling = "token",
    last: LastState = "normed",
    reductions: Mapping[str, Reduction] | None = None,
    pack: bool = False,
    places: Bool[Tensor, "batch token"] | None = None,
) -> tuple[Float[Tensor, "text layer_plus_1 hidden"], dict[str, Float[Tensor, "text layer"]]]:
    """Runs the base model once and returns the representative token before layer 0 and after every layer.

    Args:
        stack: Whose base model to run (no head, no logits).
        inputs: `input_ids`, `attention_mask` and what else the tokenizer made, on the model's device.
        pooling: The representative token, or the mean over unmasked tokens.
        last: `normed` takes the last layer's state after the final norm, as `output_hidden_states` gives
            it (the papers' code); `raw` takes the layer's own output.
        reductions: What to compute from all tokens of a layer's input and output while they are there.
        pack: Run the texts one after the other, without padding; for the representative token alone.
        places: The tokens that are read, the last of them or their mean; those that are unmasked by default.

    Returns:
        The representative tokens, and what each reduction made of every layer.

    Raises:
        ModelError: A layer did not run in the forward pass, or puts out something else than states.
    """
    assert not pack or (pooling == "token" and not reductions)
    mask = inputs["attention_mask"]
    read = (
        partial(represent_packed, mask=mask, causal=stack.causal)
        if pack
        else partial(represent, mask=mask if places is None else places, pooling=pooling, causal=stack.causal)
    )
    square = mask.shape[0] == mask.shape[1]  # then the shape does not show which comes first
    form = _as_it_is if pack else partial(_batch_first, stack, mask, square and token_first(stack))
    kept = Kept(stack, mask, read, reductions or {})
    own = stack.layers if last == "raw" else stack.layers[:-1]

    def keep(index: int, hidden: Tensor) -> None:
        kept.keep(index, form(hidden))

    hooks = [watch_input(stack.layers[0].module, partial(keep, 0))]
    hooks += [watch_output(layer.module, partial(keep, layer.index + 1)) for layer in own]
    try:
        output = stack.base(**(packed if pack else accepted)(stack.base, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    if last == "normed":
        kept.keep(len(stack), output[0])
    return kept.states()


def _as_it_is(hidden: Tensor) -> Tensor:
    return hidden


def _batch_first(stack: LayerStack, mask: Tensor, turned: bool, hidden: Tensor) -> Tensor:
    """The states of a layer as (batch, token, hidden), which has (token, batch, hidden) where `turned` or to be seen.

    Raises:
        ModelError: They are of another shape.
    """
    batch, tokens = mask.shape
    if hidden.ndim != 3 or batch not in hidden.shape[:2]:
        raise ModelError(
            f"{type(stack.base).__name__} holds states of shape {tuple(hidden.shape)} for {batch} texts of {tokens} "
            "tokens, and not (text, token, width)",
            "open it with another attention, or score it by its weights (weight-snr)",
        )
    return hidden.transpose(0, 1) if turned or hidden.shape[0] != batch else hidden


def token_first(stack: LayerStack) -> bool:
    """Whether the layers of a model hold (token, batch, hidden), as XLNet's do: seen once, on two texts of three."""
    known = _TOKEN_FIRST.get(stack.base)
    device = model_device(stack.base)
    if device.type == "meta":  # it cannot be run
        return False
    if known is None:
        shapes: list[torch.Size] = []
        hook = watch_input(stack.layers[0].module, lambda hidden: shapes.append(hidden.shape))
        ids = torch.zeros(2, 3, dtype=torch.long, device=device)
        try:
            with torch.no_grad(), evaluating(stack.base):
                stack.base(**accepted(stack.base, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}))
        finally:
            hook.remove()
        known = _TOKEN_FIRST[stack.base] = shapes[-1][0] != 2
    return known


_TOKEN_FIRST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Kept:
    """What one forward pass leaves of every state: what `read` takes of it, and what the reductions make of it.

    Args:
        stack: The layers.
        mask: Which tokens are no padding. Where it lies all is gathered, wherever a layer computes.
        read: From a state of all tokens to the rows that are kept, (place, hidden).
        reductions: What to compute from all tokens of a layer's input and output.
    """

    def __init__(
        self,
        stack: LayerStack,
        mask: Tensor,
        read: Callable[[Tensor], Tensor],
        reductions: Mapping[str, Reduction],
    ) -> None:
        self._stack, self._mask, self._read, self._reductions = stack, mask, read, reductions
        self._rows: list[Tensor | None] = [None] * (len(stack) + 1)
        self._reduced: dict[str, list[Tensor]] = {name: [] for name in reductions}
        self._before: Tensor | None = None  # the full input of the layer that runs now; for reductions only

    def keep(self, index: int, hidden: Tensor) -> None:
        """Takes what is read of state `index`: 0 enters the first layer, i + 1 leaves layer i."""
        if hidden.shape[-1] != self._stack.hidden_size:
            raise ModelError(
                f"{type(self._stack.base).__name__} gives states of {hidden.shape[-1]} dimensions, its layers of "
                f"{self._stack.hidden_size}",
                "take the last layer's own, the raw one",
                "last",
            )
        home, here = self._mask.device, hidden.device
        self._rows[index] = self._read(hidden).to(home)
        if self._reductions:
            for name, reduction in self._reductions.items():
                if self._before is not None and index > 0:
                    found = reduction(self._before.to(here), hidden, self._mask.to(here))
                    self._reduced[name].append(found.to(home))
            self._before = hidden

    def states(self) -> tuple[Float[Tensor, "place state hidden"], dict[str, Float[Tensor, "text layer"]]]:
        """All of it, state by state."""
        missing = [index for index, rows in enumerate(self._rows) if rows is None]
        if missing:
            raise ModelError(f"layer {max(missing[0] - 1, 0)} did not run", "check the model's layer dropping")
        reduced = {name: torch.stack(values, dim=1) for name, values in self._reduced.items()}
        return torch.stack([rows for rows in self._rows if rows is not None], dim=1), reduced


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for every module inside, and the mode each had before outside.

    What was compiled runs as it was written: a compiled module does not see hooks that came after it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` or `Module.compile` made anything of a model."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
