"""What on top of a transformer nothing reads: a pooler beside a mean over tokens, a head that PEFT has replaced.

Such a part gets no gradient, so it must not train: DDP would wait for it, and it would never change.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from wheretune.model.forward import evaluating
from wheretune.model.freezing import head_parameters

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack


def read_on_top(stack: LayerStack) -> list[nn.Parameter]:
    """The parameters on top on which something hangs that the model puts out.

    It is seen by running the model once, in eval mode, on a text of four tokens. Of a bare transformer nothing is on
    top: its pooler is read by whoever asks for it, who must then train it too. Where the model cannot be run so, or
    puts out nothing with a gradient, all of them count as read.
    """
    top = head_parameters(stack)
    if not top or stack.model is stack.base:
        return []
    below = list(stack.layers[-1].module.parameters())
    watched = [parameter for parameter in top + below if parameter.is_floating_point()]
    try:
        reached = _reached(stack, watched)
    except Exception:  # code of the user's own, which may ask for anything
        return top
    seen = any(id(parameter) in reached for parameter in below)
    return [parameter for parameter in top if id(parameter) in reached] if seen else top


def _reached(stack: LayerStack, watched: list[nn.Parameter]) -> set[int]:
    """The ids of the parameters on which something hangs that the model puts out."""
    flags = [(parameter, parameter.requires_grad) for parameter in stack.model.parameters()]
    wanted = {id(parameter) for parameter in watched}
    try:
        for parameter, _ in flags:
            parameter.requires_grad = id(parameter) in wanted
        with torch.enable_grad(), evaluating(stack.model):
            parts = [part.float().sum() for part in _tensors(_run(stack)) if part.requires_grad]
            found = torch.autograd.grad(torch.stack(parts).sum(), watched, allow_unused=True) if parts else ()
    finally:
        for parameter, flag in flags:
            parameter.requires_grad = flag
    return {id(parameter) for parameter, gradient in zip(watched, found, strict=False) if gradient is not None}


def _run(stack: LayerStack) -> Any:
    """What a model puts out for four tokens, given by name or, as a SentenceTransformer takes them, as one dict."""
    ids = torch.arange(4, device=next(stack.base.parameters()).device).unsqueeze(0)
    known = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    others = {"token_type_ids": torch.zeros_like(ids), "labels": torch.zeros_like(ids[:, 0])}
    takes = inspect.signature(stack.model.forward).parameters
    needed = {name for name, taken in takes.items() if taken.default is inspect.Parameter.empty}
    if takes.keys().isdisjoint(known) and all(taken.kind is not taken.VAR_POSITIONAL for taken in takes.values()):
        return stack.model(known)
    anything = any(taken.kind is taken.VAR_KEYWORD for taken in takes.values())
    given = {name: value for name, value in known.items() if name in takes or anything}
    return stack.model(**given, **{name: value for name, value in others.items() if name in needed})


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in what a model puts out."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
