"""Whether a saving holds for a model is seen by running it both ways, plainly and saving, on a few texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from wheretune.model.forward import evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn

COARSE = 2**-4  # how far apart two ways may be where not all is fp32
HALVES = (torch.bfloat16, torch.float16)
REFUSALS = (RuntimeError, IndexError, ValueError)  # what a family raises at shapes that its layers do not take


class BothWays:
    """What the plain way gives, and whether another way gives the same.

    With p a row of numbers that the plain way gives and s the same row of the saving way, they are the same where

        ||s - p|| <= tolerance ||p||

    in every row. Nothing drops out, and no graph is made.

    Args:
        model: What is run.
        plainly: Runs it on a few texts of different lengths, and returns what is read of them, a row after the other.
        fine: The tolerance if all weights are fp32 and nothing computes in half precision; otherwise it is 2^-4.
    """

    def __init__(self, model: nn.Module, plainly: Callable[[], Tensor], fine: float) -> None:
        self._model = model
        precise = all(parameter.dtype == torch.float32 for parameter in model.parameters())

        def see(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            nonlocal precise  # under autocast weights say nothing of the precision
            precise = precise and getattr(output, "dtype", None) not in HALVES

        hooks = [module.register_forward_hook(see) for module in model.modules()]
        try:
            self._plain = self._run(plainly)
        finally:
            for hook in hooks:
                hook.remove()
        self._tolerance = fine if precise else COARSE

    def agree(self, saving: Callable[[], Tensor]) -> bool:
        """Whether the saving way gives the same; not if the model cannot be run so."""
        try:
            found = self._run(saving)
        except REFUSALS:
            return False
        if found.shape != self._plain.shape:
            return False
        apart = (found - self._plain).norm(dim=-1)
        return bool((apart <= self._tolerance * self._plain.norm(dim=-1)).all())

    def _run(self, read: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad(), evaluating(self._model):
            return read().float()
