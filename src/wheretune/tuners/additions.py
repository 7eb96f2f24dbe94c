"""Modules of ours inside a layer, and the hooks through which they are heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from wheretune.errors import MergeError, ModelError
from wheretune.tuners.base import Attached

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Addition:
    """A module of ours inside a layer, and the hooks through which it is heard."""

    module: nn.Module
    owner: nn.Module
    name: str
    hooks: tuple[torch.utils.hooks.RemovableHandle, ...]


def added(additions: Sequence[Addition], why_not_merged: str) -> Attached:
    """`Attached` for modules of ours.

    Args:
        additions: All of them.
        why_not_merged: Why no weights of the model can do what they do.
    """

    def detach() -> None:
        for one in additions:
            for hook in one.hooks:
                hook.remove()
            delattr(one.owner, one.name)

    def merge() -> NoReturn:
        raise MergeError(why_not_merged, "keep the delta, and use wheretune evaluate and predict")

    return Attached([p for one in additions for p in one.module.parameters()], detach, merge)


def check_free(owners: Sequence[nn.Module], name: str) -> None:
    """Makes sure, before the first of them is touched, that no owner carries an addition of that name.

    Raises:
        ModelError: One does.
    """
    if any(name in dict(owner.named_children()) for owner in owners):
        raise ModelError(f"the model carries a {name} of wheretune already", "undo the plan that was applied before")


def add(owner: nn.Module, name: str, module: nn.Module, hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> Addition:
    """Puts `module` into `owner`, on its device, so that it moves, saves and is counted with the layer."""
    owner.add_module(name, module.to(next(owner.parameters()).device))
    return Addition(module, owner, name, tuple(hooks))
