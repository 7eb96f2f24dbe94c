"""Activation checkpointing that leaves a frozen prefix alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from wheretune.errors import ModelError
from wheretune.model.calls import layer_input, with_hidden

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack


def checkpoint_activations(stack: LayerStack, lowest: int) -> None:
    """Non-reentrant activation checkpointing in the layers from `lowest` up, and in no other part of the base.

    Raises:
        ModelError: Transformers has none for this family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in stack.layers[lowest:]:
        if not isinstance(layer.module, GradientCheckpointingLayer):
            raise ModelError(f"{type(stack.base).__name__} has no activation checkpointing", "train without it")
        layer.module.gradient_checkpointing = True
        layer.module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


def recomputed(base: nn.Module, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A frozen layer in eval mode under activation checkpointing."""
    if base.training and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False):
        kwargs |= {name: None for name in ("past_key_values", "layer_past") if name in kwargs}  # it would grow twice
        how: Callable[..., Any] = module._gradient_checkpointing_func  # type: ignore[assignment]
        return how(partial(forward, **kwargs), *args)
    return forward(*args, **kwargs)


def for_reentrant(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Reentrant checkpointing gives a layer's parameters a gradient only if its input asks for one too."""
    how = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    hidden = layer_input(args, kwargs)
    if hidden.requires_grad:
        return None
    if module.training and getattr(module, "gradient_checkpointing", False) and how.get("use_reentrant", False):
        return with_hidden(args, kwargs, hidden.detach().requires_grad_())
    return None
