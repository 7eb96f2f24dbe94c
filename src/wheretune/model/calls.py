"""A layer's calling convention: where its states come in, in what form it puts them out, how it is passed by.

No other file knows it. Families give a layer its states by place or by name (`hidden_states`); a layer puts out a
tensor, or a tuple or list that begins with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The states with which a layer was called."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def layer_output(output: Any) -> Tensor:
    """The states in what a layer put out."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden


def like_output(output: Any) -> Callable[[Tensor], Any]:
    """Puts states into the form in which a layer put out its own, with nothing beside them."""
    if isinstance(output, tuple | list):
        kind, beside = (list if isinstance(output, list) else tuple), len(output) - 1
        return lambda hidden: kind([hidden, *[None] * beside])
    return lambda hidden: hidden


def watch_input(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Shows the states that enter a layer to `see`, at every call."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(layer_input(args, kwargs))

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def watch_output(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Shows the states that leave a layer to `see`, at every call."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        see(layer_output(output))

    return layer.register_forward_hook(hook)


def change_input(layer: nn.Module, change: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Lets other states enter a layer: those that `change` makes of them, or the same where it gives None."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = change(layer_input(args, kwargs))
        if hidden is None:
            return None
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def wrap_forward(module: nn.Module, function: Callable[..., Any]) -> Callable[[], None]:
    """Lets `function(forward, *args, **kwargs)` answer the calls of one module; returns what takes it off again.

    Wraps may be taken off in any order, also from under another one, and more than once.
    """
    wrapped = _Wrapped(module, function)
    module.forward = wrapped
    return wrapped.take_off


class _Wrapped:
    """A `forward` around the one that was there."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self.module = module
        self.function: Callable[..., Any] | None = function  # None once it is taken off
        self.inner = module.__dict__.get("forward")  # None: the one of the module's class

    @property
    def __wrapped__(self) -> Callable[..., Any]:  # where `inspect.signature` looks
        return MethodType(type(self.module).forward, self.module) if self.inner is None else self.inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = self.__wrapped__
        return forward(*args, **kwargs) if self.function is None else self.function(forward, *args, **kwargs)

    def take_off(self) -> None:
        self.function = None
        top = self.module.__dict__.get("forward")
        while isinstance(top, _Wrapped) and top.function is None:
            top = top.inner
        if top is not None:
            self.module.forward = top
        elif "forward" in self.module.__dict__:
            del self.module.forward


def pass_by(layers: Sequence[nn.Module], states: Callable[[int, Tensor], Tensor | None]) -> Callable[[], None]:
    """Lets layers put out the states that `states(place, input)` gives, without running; returns what ends it.

    Where it gives None the layer runs. States go out in the form in which the layer that ran last put out its own, so
    one of them must have run before one is passed by.

    Args:
        layers: The layers, each known to `states` by its place among them.
        states: What a layer puts out, given what enters it.
    """
    form: list[Callable[[Tensor], Any]] = []  # in which the layer that ran last put out its states

    def call(place: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden = states(place, layer_input(args, kwargs))
        if hidden is not None:
            return form[0](hidden)
        output = forward(*args, **kwargs)
        form[:] = [like_output(output)]
        return output

    undo = [wrap_forward(layer, partial(call, place)) for place, layer in enumerate(layers)]

    def end() -> None:
        for take_off in undo:
            take_off()

    return end
