"""Whether a model runs with fewer heads and narrower MLPs: seen by running it so on a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from wheretune.errors import ModelError
from wheretune.model import two_stacks
from wheretune.model.forward import evaluating
from wheretune.model.inputs import accepted, model_device
from wheretune.schedules.pruning import groups_of

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.schedules.pruning import Group

REFUSALS = (RuntimeError, IndexError, ValueError)  # what a family raises at shapes that its layers do not take


def linear_map(stack: LayerStack, group: Group, path: str) -> nn.Linear:
    """A map of a group.

    Raises:
        ModelError: It is another kind of module.
    """
    module = stack.layers[group.layer].module.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise ModelError(f"{path} is no plain linear map", "take another schedule", "schedule")
    return module


def refusal(base: nn.Module) -> ModelError:
    """What is said of a model that does not bear it."""
    return ModelError(
        f"{type(base).__name__} does not run with fewer heads or narrower MLPs", "take another schedule", "schedule"
    )


def check_runs(stack: LayerStack, layers: Sequence[int]) -> None:
    """Runs a model once whose layers lack a head and an MLP unit each; what it puts out is not looked at.

    Args:
        stack: The model.
        layers: Which layers.

    Raises:
        ModelError: It does not run so, or a layer is made of other maps.
    """
    groups = [group for layer in layers for group in groups_of(layer, stack.layers[layer].parts)]
    maps = [
        (linear_map(stack, group, path), dim, size)
        for group in groups
        for path, dim, size in group.maps()
        if group.units > 1
    ]
    whole: list[tuple[Tensor, Tensor]] = []
    ids = torch.zeros(1, 3, dtype=torch.long, device=model_device(stack.base))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        for module, dim, size in maps:
            for parameter in (module.weight, module.bias if dim == 0 else None):
                if parameter is not None:
                    whole.append((parameter, parameter.data))
                    parameter.data = parameter.data.narrow(dim, 0, parameter.shape[dim] - size)
        with torch.no_grad(), evaluating(stack.base):
            two_stacks.run(stack.base, inputs) if stack.split else stack.base(**accepted(stack.base, inputs))
    except REFUSALS as error:
        raise refusal(stack.base) from error
    finally:
        for parameter, values in reversed(whole):
            parameter.data = values
