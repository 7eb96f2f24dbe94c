"""Weight SNR: how much of a layer's weights stands out from noise, told from the weights alone.

For every weight matrix of a layer, with singular values s and shape m x n, the Marchenko-Pastur edge is

    edge = sigma (1 + sqrt(min(m, n) / max(m, n))),  sigma = (interquartile range of s) / 1.349

    score(l) = sum of s above the edge / sum of s at or below it, over all matrices of the layer

Spectrum (Hartford et al. 2024), whose estimate of sigma this is. Decided: matrices are summed before the ratio is
taken, so a small matrix without noise gives no infinite score; and without the division by the largest singular value
that Spectrum's code adds, which would make the score depend on the scale of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.scorers.base import Card, Finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import nn

    from wheretune.model.stack import LayerStack

NORMAL_IQR = 1.349  # the interquartile range of a standard normal distribution


@dataclass(frozen=True)
class WeightSNR:
    """Singular values above the Marchenko-Pastur edge over those below, per layer."""

    name: ClassVar[str] = "weight-snr"
    card: ClassVar[Card] = Card(
        "sum of singular values above the Marchenko-Pastur edge / sum below",
        "Spectrum, Hartford et al. 2024",
        ("weights",),
        "one SVD per matrix",
        "highest",
    )

    def score(self, stack: LayerStack) -> Finished:
        """The ratio of every layer."""
        return Finished(np.array([_ratio(_matrices(layer.module)) for layer in stack.layers]))


def _matrices(layer: nn.Module) -> Iterator[torch.Tensor]:
    from wheretune.model.dispatch import weight

    return (weight(layer, name) for name, parameter in layer.named_parameters() if parameter.ndim == 2)


def _ratio(matrices: Iterable[torch.Tensor]) -> float:
    import torch

    signal = noise = 0.0
    for matrix in matrices:
        values = torch.linalg.svdvals(matrix.double())
        quarter, three_quarters = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype).to(values))
        sigma = (three_quarters - quarter) / NORMAL_IQR
        edge = sigma * (1 + (min(matrix.shape) / max(matrix.shape)) ** 0.5)
        signal += float(values[values > edge].sum())
        noise += float(values[values <= edge].sum())
    return signal / noise if noise > 0 else float("inf")
