"""Activation checkpointing that leaves a frozen prefix alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from wheretune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack


def checkpoint_activations(stack: LayerStack, lowest: int) -> Callable[[], None]:
    """Non-reentrant activation checkpointing in the layers from `lowest` up, and in no other part of the base.

    Returns:
        What ends it.

    Raises:
        ModelError: Transformers has none for this family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in stack.layers[lowest:]:
        if not isinstance(layer.module, GradientCheckpointingLayer):
            raise ModelError(f"{type(stack.base).__name__} has no activation checkpointing", "train without it")
        layer.module.gradient_checkpointing = True
        layer.module._gradient_checkpointing_func = partial(_checkpoint, use_reentrant=False)  # type: ignore[assignment]

    def end() -> None:
        for layer in stack.layers[lowest:]:
            layer.module.gradient_checkpointing = False  # type: ignore[assignment]

    return end


def _checkpoint(forward: Callable[..., Any], *args: Any, use_reentrant: bool) -> Any:
    """Checkpoints a layer without its cache of keys and values, which would grow twice.

    Newer Transformers hand it over by name and drop it themselves; Transformers 5.0 gave GPT-2 its own by position.
    """
    from transformers.cache_utils import Cache

    given = (None if isinstance(one, Cache) else one for one in args)
    return checkpoint(forward, *given, use_reentrant=use_reentrant)


def recomputed(base: nn.Module, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The forward of a frozen layer in eval mode that a gradient passes, recomputed under activation checkpointing.

    Transformers recomputes layers in training mode only.
    """
    if base.training and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False):
        kwargs |= {name: None for name in ("past_key_values", "layer_past") if name in kwargs}  # it would grow twice
        recompute: Callable[..., Any] = module._gradient_checkpointing_func  # type: ignore[assignment]
        return recompute(partial(forward, **kwargs), *args)
    return forward(*args, **kwargs)


def ask_for_gradient(layer: nn.Module, hidden: Tensor) -> Tensor | None:
    """The same states, asking for a gradient, where reentrant checkpointing gives a layer's parameters none otherwise.

    None where they do so already or nothing is checkpointed reentrantly.

    Raises:
        ModelError: This is an older Transformers, which checkpoints a layer with its hooks: this one comes too late.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if hidden.requires_grad or not layer.training or not getattr(layer, "gradient_checkpointing", False):
        return None
    settings = getattr(getattr(layer, "_gradient_checkpointing_func", None), "keywords", {})
    if not settings.get("use_reentrant", False):
        return None
    if "__call__" in vars(GradientCheckpointingLayer):
        raise ModelError(
            "reentrant checkpointing above frozen layers gives no gradients with this version of Transformers",
            'set use_reentrant to False ({"use_reentrant": False}), or take a newer Transformers',
        )
    return hidden.detach().requires_grad_()
