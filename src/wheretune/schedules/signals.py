"""What a schedule can observe of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def relative_change(old: Sequence[Tensor], new: Sequence[Tensor]) -> float | None:
    """Mean of |(new - old) / old| over all elements of some tensors; None where every element was 0.

    Decided: elements with old = 0 are left out, since 0 / 0 would rank last for ever.
    """
    import torch

    total, count = 0.0, 0
    for before, after in zip(old, new, strict=True):
        zeros = before == 0
        change = (after.detach() - before).abs_().div_(before.abs()).masked_fill_(zeros, 0.0)
        total, count = total + float(change.sum(dtype=torch.float64)), count + zeros.numel() - int(zeros.sum())
    return total / count if count else None
