"""A bounded sample of the rows seen, for saying how sure a score is that is no mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

SKETCH = 512  # rows that are kept for resampling
RESAMPLES = 100
LEAST_ROWS = 16  # to be resampled


@dataclass(frozen=True, eq=False)
class Sketch:
    """A uniform sample of the rows seen, without replacement and of bounded size, for scores that are no means.

    It keeps the rows whose hashed row numbers are smallest, so it is the same in any order and of any shards.

    Attributes:
        keys: The hashed row numbers, ascending.
        rows: What was kept of each row, fp32.
    """

    keys: Int[Tensor, " row"]
    rows: Float[Tensor, "row state hidden"]

    @classmethod
    def empty(cls, states: int, hidden: int) -> Sketch:
        """No rows yet."""
        import torch

        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, states, hidden))

    def add(self, sample_ids: Sequence[int], rows: Float[Tensor, "row state hidden"]) -> Sketch:
        """This sketch and a batch."""
        keys = _hashed(sample_ids)
        if len(self.keys) >= SKETCH:  # most of a later batch need not be copied
            smaller = keys < self.keys[-1]
            keys, rows = keys[smaller], rows[smaller.to(rows.device)]
        return self.merge(Sketch(keys, rows.float().cpu())) if len(keys) else self

    def merge(self, other: Sketch) -> Sketch:
        """The sketch of both."""
        import torch

        keys, order = torch.cat([self.keys, other.keys]).sort()
        return Sketch(keys[:SKETCH], torch.cat([self.rows, other.rows])[order[:SKETCH]])

    def covariance(
        self, n: int, statistic: Callable[[Float[Tensor, "row part"]], Float[Tensor, "part layer"]]
    ) -> Float[np.ndarray, "layer layer"] | None:
        """N times the covariance of a statistic of n samples, by subsampling without replacement.

        Of the m rows kept, `RESAMPLES` subsets of b = n m / (n + m) are drawn; the variance over subsets of size b of m
        is that of b samples times 1 - b / m, which is the variance of n samples (Politis and Romano 1994, with the
        correction for a finite population). Of few samples it is rather too large, since the statistic is no mean.

        Args:
            n: Samples the score itself is made of.
            statistic: From subsets of the rows, one column per subset with 1 for the rows that are in, to the scores of
                each.

        Returns:
            The matrix, zero where a layer has no score; None if there are too few rows.
        """
        import torch

        kept = len(self.keys)
        if kept < LEAST_ROWS:
            return None
        size = round(n * kept / (n + kept))
        ranks = np.random.default_rng(0).random((kept, RESAMPLES)).argsort(0)
        values = statistic(torch.from_numpy((ranks < size).astype(np.float64)))
        covariance: Float[np.ndarray, "layer layer"] = np.nan_to_num(n * np.atleast_2d(np.cov(values.numpy().T)))
        return covariance


def _hashed(sample_ids: Sequence[int]) -> Int[Tensor, " row"]:
    """One pseudo-random whole number from 0 per row: the finaliser of splitmix64 (Steele et al. 2014)."""
    import torch

    with np.errstate(over="ignore"):
        z = np.array(sample_ids, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return torch.from_numpy(((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64))
