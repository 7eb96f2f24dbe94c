"""What is frozen stays out of the training: no gradient below the lowest trained layer, and no dropout.

Hooks, and a `forward` of single modules; all of it comes off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from wheretune.model.calls import change_input, wrap_forward
from wheretune.model.inputs import base_inputs
from wheretune.model.recomputing import ask_for_gradient, recomputed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from wheretune.model.stack import LayerStack

EXCLUSION = "_wheretune_exclusion"  # where a base model keeps what `exclude_frozen` put on it last


def lowest_trained(stack: LayerStack) -> int:
    """The lowest layer with a parameter that trains; L if there is none, and 0 if something outside the layers does."""
    if any(trains(part) for part in outside(stack)):
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


def exclude_frozen(stack: LayerStack, dropout: bool = False) -> Callable[[], None]:
    """Keeps what is frozen now out of the training; returns what undoes it.

    Frozen layers, and with frozen embeddings all else in the base model, stay in eval mode, though Trainer calls
    `model.train()` at every step; with activation checkpointing, one that a gradient passes is recomputed all the same,
    though Transformers does so in training mode only. The states that enter the first layer ask for no gradient, though
    activation checkpointing may make them do so: below the lowest trained layer no graph is made and nothing kept for
    it. (States made of `inputs_embeds` keep theirs: something of the user's may be trained there.) An encoder-decoder's
    layers are in the order encoder, decoder: with a trained layer in the encoder, a gradient passes the whole decoder,
    which looks at the encoder's states.

    Call it again when other layers train: what an earlier call on the same base model put on is undone first. Undoing
    gives every module the mode back that it would have without, and undoing twice does no harm.

    Args:
        stack: The layers, what is frozen set to require no gradient.
        dropout: Leave frozen layers in whatever mode they are (stock behaviour).
    """
    earlier: _Exclusion | None = getattr(stack.base, EXCLUSION, None)
    if earlier is not None:
        earlier.undo()
    exclusion = _Exclusion(stack, dropout)
    setattr(stack.base, EXCLUSION, exclusion)
    return exclusion.undo


class _Exclusion:
    """The hooks that keep what is frozen out of the training, as long as they are on."""

    def __init__(self, stack: LayerStack, dropout: bool) -> None:
        self._base = stack.base
        self._by_ids = True  # whether the batch that runs now was given as token ids
        self._silenced: dict[nn.Module, None] = {}  # modules that were put into eval mode here
        others = outside(stack)
        embeddings_train = any(trains(part) for part in others)
        frozen = [layer.module for layer in stack.layers if not trains(layer.module)]
        quiet = [] if dropout else [*frozen, *([] if embeddings_train else others)]
        self._quiet = [module for part in quiet for module in part.modules()]
        lowest = lowest_trained(stack)
        above = {layer.module for layer in stack.layers[lowest:]}
        self._wraps = [
            wrap_forward(module, partial(recomputed, stack.base, module))
            for module in ([] if dropout else frozen)
            if module in above
        ]
        # an encoder-decoder's encoder runs first, also where the parts are called and not the whole
        enters = stack.base.get_submodule("encoder") if stack.split else stack.base
        self._hooks = [enters.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)]
        if not embeddings_train:
            self._hooks += self._at_the_bottom(stack, lowest)

    def _at_the_bottom(self, stack: LayerStack, lowest: int) -> list[RemovableHandle]:
        """What keeps a graph out of the first layer of every stack, and lets the lowest trained one have a gradient."""
        firsts = sorted({0, stack.split})
        hooks = [change_input(stack.layers[first].module, self._without_graph) for first in firsts]
        if lowest < len(stack):
            module = stack.layers[lowest].module
            hooks.append(change_input(module, partial(ask_for_gradient, module)))
        return hooks

    def _enter(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._by_ids = base_inputs(base, args, kwargs).get("inputs_embeds") is None
        if base.training:
            for module in self._quiet:
                if module.training:
                    module.training = False
                    self._silenced[module] = None

    def _without_graph(self, hidden: Tensor) -> Tensor | None:
        return hidden.detach() if hidden.requires_grad and self._by_ids else None

    def undo(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for take_off in self._wraps:
            take_off()
        if self._base.training:  # in eval mode they are as they should be
            for module in self._silenced:
                module.training = True
        self._hooks, self._wraps, self._silenced = [], [], {}
        if getattr(self._base, EXCLUSION, None) is self:
            delattr(self._base, EXCLUSION)


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
