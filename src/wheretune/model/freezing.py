"""What is frozen stays out of the training: no gradient below the lowest trained layer, and no dropout.

Hooks, and a `forward` of single modules; all of it comes off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from wheretune.model.calls import layer_input, replace_forward, with_hidden
from wheretune.model.inputs import base_inputs
from wheretune.model.recomputing import for_reentrant, recomputed

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack

_UNDO: WeakKeyDictionary[nn.Module, Callable[[], None]] = WeakKeyDictionary()  # by base model


def lowest_trained(stack: LayerStack) -> int:
    """The lowest layer with a parameter that trains; L if there is none, and 0 if something outside the layers does."""
    if any(parameter.requires_grad for part in outside(stack) for parameter in part.parameters()):
        return 0
    training = (layer.index for layer in stack.layers if trains(layer.module))
    return min(training, default=len(stack))


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module does."""
    return any(parameter.requires_grad for parameter in module.parameters())


def outside(stack: LayerStack) -> list[nn.Module]:
    """The largest modules of the base model that hold no layer and are no head: embeddings, the final norm."""
    layers = {id(layer.module) for layer in stack.layers}
    head = {id(parameter) for parameter in head_parameters(stack)}  # the pooler is inside the base model

    def below(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if id(child) in layers:
                continue
            if any(id(inner) in layers for inner in child.modules()):
                yield from below(child)
            elif all(id(parameter) not in head for parameter in child.parameters()):
                yield child

    return list(below(stack.base))


def still(stack: LayerStack, dropout: bool = False) -> Callable[[], None]:
    """Keeps what is frozen out of the training, instead of what an earlier call kept out; returns what undoes it.

    Frozen layers, and with frozen embeddings all else in the base model, stay in eval mode, though Trainer calls
    `model.train()` at every step; with activation checkpointing, one that a gradient passes is recomputed all the same,
    though Transformers does so in training mode only. The states that enter the first layer ask for no gradient, though
    activation checkpointing may make them do so: below the lowest trained layer no graph is made and nothing kept for
    it. (States made of `inputs_embeds` keep theirs: something of the user's may be trained there.)

    Args:
        stack: The layers, what is frozen set to require no gradient.
        dropout: Leave frozen layers in whatever mode they are (stock behaviour).
    """
    _UNDO.pop(stack.base, lambda: None)()
    others = outside(stack)
    fixed = not any(trains(part) for part in others)
    frozen = [] if dropout else [layer.module for layer in stack.layers if not trains(layer.module)]
    frozen += others if fixed and not dropout else []
    first, by_ids = lowest_trained(stack), [True]
    passed = [layer.module for layer in stack.layers[first:] if not dropout and not trains(layer.module)]

    def enter(base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        by_ids[0] = base_inputs(base, args, kwargs).get("inputs_embeds") is None
        if base.training:
            for part in frozen:
                part.eval()

    def without_graph(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = layer_input(args, kwargs)
        return with_hidden(args, kwargs, hidden.detach()) if hidden.requires_grad and by_ids[0] else None

    restore = [replace_forward(module, partial(recomputed, stack.base, module, module.forward)) for module in passed]
    hooks = [stack.base.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)]
    if fixed:
        hooks.append(stack.layers[0].module.register_forward_pre_hook(without_graph, with_kwargs=True))
        if first < len(stack):
            hooks.append(stack.layers[first].module.register_forward_pre_hook(for_reentrant, with_kwargs=True))

    def undo() -> None:
        _UNDO.pop(stack.base, None)
        for hook in hooks:
            hook.remove()
        while restore:
            restore.pop()()
        while frozen:
            frozen.pop().train(stack.base.training)

    _UNDO[stack.base] = undo
    return undo


def head_parameters(stack: LayerStack) -> list[nn.Parameter]:
    """The parameters of what sits on top: outside the base model, and the pooler inside it.

    The output matrix of a language model is none of them: it stays frozen (T 3.2).
    """
    inside = {id(parameter) for parameter in stack.base.parameters()}
    output = getattr(stack.model, "get_output_embeddings", lambda: None)()
    inside |= {id(parameter) for parameter in output.parameters()} if output is not None else set()
    top = [parameter for parameter in stack.model.parameters() if id(parameter) not in inside]
    pooler = getattr(stack.base, "pooler", None)
    return top + (list(pooler.parameters()) if isinstance(pooler, nn.Module) else [])
