"""A layer's calling convention: where its states come in, how they go out, and how it is passed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The states with which a layer was called: families give them by place or by name."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Gives one module another `forward`; returns what gives the old one back."""
    before = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    return undo


def with_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Any:
    """The same call with other states."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def output_kind(output: Any) -> int | None:
    """How long a tuple a layer puts out; None for a plain tensor."""
    return len(output) if isinstance(output, tuple) else None


def as_output(hidden: Tensor, kind: int | None) -> Any:
    """States as a layer of that kind puts them out."""
    return hidden if kind is None else (hidden, *[None] * (kind - 1))
