"""Bounded sums over samples and batches, from which scores are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wheretune.errors import ScoreError
from wheretune.scorers.base import Finished

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

LEAST_BATCHES = 8  # to say how batches vary
CONSTANT = 1e-10  # a variance below this share of the squared mean is rounding


@dataclass(frozen=True, eq=False)
class MeanSums:
    """Sums over samples of one number per layer, in fp64, where samples weigh alike.

    Attributes:
        n: Samples.
        values: Sum of the numbers.
        products: Sum of the products of every two layers' numbers, for the covariance over samples.
    """

    n: int
    values: Float[Tensor, " layer"]
    products: Float[Tensor, "layer layer"]

    @classmethod
    def empty(cls, layers: int) -> MeanSums:
        """No samples yet."""
        import torch

        return cls(0, torch.zeros(layers, dtype=torch.float64), torch.zeros(layers, layers, dtype=torch.float64))

    def add(self, numbers: Float[Tensor, "batch layer"]) -> MeanSums:
        """These sums and those of one batch."""
        import torch

        batch = numbers.to("cpu", torch.float64)
        return self.merge(MeanSums(len(batch), batch.sum(0), batch.T @ batch))

    def merge(self, other: MeanSums) -> MeanSums:
        """The sums over both."""
        return MeanSums(self.n + other.n, self.values + other.values, self.products + other.products)

    def finish(self) -> Finished:
        """Mean, population standard deviation and population covariance over samples."""
        import torch

        means = self.values / self.n
        covariance = self.products / self.n - torch.outer(means, means)
        stds = covariance.diagonal().clamp(min=0).sqrt()
        return Finished(means.numpy(), stds.numpy(), covariance=covariance.numpy())


@dataclass(frozen=True, eq=False)
class BatchSums:
    """Sums over batches of one number per layer, for scores that only a batch has.

    Attributes:
        batches: The sums.
        texts: Texts in these batches.
    """

    batches: MeanSums
    texts: int

    @classmethod
    def empty(cls, layers: int) -> BatchSums:
        """No batches yet."""
        return cls(MeanSums.empty(layers), 0)

    def add(self, numbers: Float[Tensor, " layer"], texts: int) -> BatchSums:
        """These sums and those of one batch."""
        return BatchSums(self.batches.add(numbers.unsqueeze(0)), self.texts + texts)

    def merge(self, other: BatchSums) -> BatchSums:
        """The sums over both."""
        return BatchSums(self.batches.merge(other.batches), self.texts + other.texts)

    def finish(self, total: bool) -> Finished:
        """The mean over batches, or their total, and how sure it is by how batches vary.

        Batches are of like length and so differ by more than random ones would: the covariance is rather too large. Of
        fewer than `LEAST_BATCHES` batches none is given.
        """
        many, means = self.batches.n, self.batches.finish()
        times = many if total else 1
        covariance = None
        if many >= LEAST_BATCHES and means.covariance is not None:
            covariance = means.covariance * (self.texts / (many - 1)) * times**2  # n times that of the mean or total
        return Finished(means.values * times, covariance=covariance)


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over samples of a similarity between every two layers, in fp64, where samples weigh alike.

    Attributes:
        pairs: Sum of the L x L similarities.
        scores: Sums of each layer's mean similarity to the others.
    """

    pairs: Float[Tensor, "layer layer"]
    scores: MeanSums

    @classmethod
    def empty(cls, layers: int) -> PairSums:
        """No samples yet.

        Raises:
            ScoreError: One layer has no other to be compared with.
        """
        import torch

        if layers < 2:
            raise ScoreError("a model of one layer has no pairs of layers", "use a model of two or more")
        return cls(torch.zeros(layers, layers, dtype=torch.float64), MeanSums.empty(layers))

    def add(self, similarity: Float[Tensor, "batch layer layer"], rows: Sequence[int]) -> PairSums:
        """These sums and those of one batch.

        Raises:
            ScoreError: A similarity is not finite (a state of length zero has no direction); `rows` says which text.
        """
        import torch

        batch = similarity.to("cpu", torch.float64)
        bad = ~torch.isfinite(batch)
        if bad.any():
            sample = int(bad.any(dim=2).any(dim=1).nonzero()[0])
            layer = int(bad[sample].sum(dim=1).argmax())  # the culprit spoils its whole row, the others a cell each
            raise ScoreError(
                f"the similarity of layer {layer} to the others is not finite for row {rows[sample] + 1} "
                "(the first row is 1)",
                "its state there has length zero or is too large: check the weights and that text",
            )
        return PairSums(self.pairs + batch.sum(0), self.scores.add(mean_of_others(batch)))

    def merge(self, other: PairSums) -> PairSums:
        """The sums over both."""
        return PairSums(self.pairs + other.pairs, self.scores.merge(other.scores))

    def finish(self) -> Finished:
        """Mean and population standard deviation over samples, and the mean L x L matrix."""
        return replace(self.scores.finish(), similarity=(self.pairs / self.scores.n).numpy())


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and summed squared deviation of every dimension of every latent space, in fp64."""

    n: int
    mean: Float[Tensor, "state hidden"]
    spread: Float[Tensor, "state hidden"]

    @classmethod
    def empty(cls, states: int, hidden: int) -> Moments:
        """No rows yet."""
        import torch

        zeros = torch.zeros(states, hidden, dtype=torch.float64)
        return cls(0, zeros, zeros)

    @classmethod
    def of(cls, rows: Float[Tensor, "row state hidden"]) -> Moments:
        """Of some rows."""
        import torch

        rows = rows.to("cpu", torch.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).square().sum(0))

    def merge(self, other: Moments) -> Moments:
        """The moments of both (Chan et al. 1979): no difference of large sums, so no cancellation."""
        n = self.n + other.n
        if n == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.n / n)
        return Moments(n, mean, self.spread + other.spread + step.square() * (self.n * other.n / n))

    def standardised(self, rows: Float[Tensor, "row state hidden"]) -> Float[Tensor, "row state hidden"]:
        """Every dimension to mean 0 and deviation 1 over what was counted; one that never varies becomes 0."""
        import torch

        deviation = (self.spread / self.n).sqrt()
        centred = rows - self.mean.to(rows)
        varies = deviation > CONSTANT**0.5 * self.mean.abs()
        return centred / torch.where(varies, deviation, 1.0).to(rows)


def mean_of_others(similarity: Float[Tensor, "*batch layer layer"]) -> Float[Tensor, "*batch layer"]:
    """Per layer the mean over all other layers: 1/(L-1) sum over j != l."""
    own = similarity.diagonal(dim1=-2, dim2=-1)
    return (similarity.sum(-1) - own) / (similarity.shape[-1] - 1)
