"""Linear CKA between a layer's input and output: how much the layer changes the geometry of the data.

With X and Y the n x d matrices of representative tokens before and after layer l, and K = X X', L = Y Y',

    score(l) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

Layer-wise LoRA by CKA, section 3; Kornblith et al. 2019. `biased` takes HSIC = ||Xc' Yc||_F^2 with centred columns, as
the authors' code does; it is near 1 for n much smaller than d, even on noise. `debiased` takes the unbiased HSIC of
Song et al. 2012 (n >= 4), which can be below 0. Both are exact over all samples: while n is at most d the rows are
kept and the n x n Gram matrices used, afterwards only sums of cross-products (d x d), so the state is bounded and
shards merge.

A layer whose input or output does not vary is no candidate: its CKA is 0 by construction. The first layer of an
encoder is one, since its [CLS] token is constant there (the paper's appendix).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune.errors import ScoreError
from wheretune.scorers.base import Card, Finished
from wheretune.scorers.sketch import Sketch
from wheretune.scorers.sums import CONSTANT
from wheretune.support.log import log

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States


@dataclass(frozen=True, eq=False)
class Rows:
    """The representative tokens themselves, as long as they are no more than d."""

    layers: int
    hidden: int
    batches: tuple[Float[Tensor, "_ layer_plus_1 hidden"], ...]

    @property
    def n(self) -> int:
        """Samples so far."""
        return sum(len(batch) for batch in self.batches)

    def joined(self) -> Float[Tensor, "row layer_plus_1 hidden"]:
        """All rows, in fp64."""
        import torch

        if not self.batches:
            return torch.zeros(0, self.layers + 1, self.hidden, dtype=torch.float64)
        return torch.cat(self.batches).double()


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over samples, in fp64, for every pair (a, b) of states: each with itself, then each with the next.

    States lie far from the origin and vary little, and the sums go up to the fourth power: taken as they are, their
    differences would be rounding. So they are taken around `shift`, near the mean; CKA does not depend on it.

    Attributes:
        n: Samples.
        shift: What is subtracted from every x.
        total: Sum of x.
        square: Sum of |x|^2.
        cross: Sum of x_a x_b'.
        left: Sum of |x_b|^2 x_a.
        right: Sum of |x_a|^2 x_b.
        fourth: Sum of |x_a|^2 |x_b|^2.
    """

    n: int
    shift: Float[Tensor, "state hidden"]
    total: Float[Tensor, "state hidden"]
    square: Float[Tensor, " state"]
    cross: Float[Tensor, "pair hidden hidden"]
    left: Float[Tensor, "pair hidden"]
    right: Float[Tensor, "pair hidden"]
    fourth: Float[Tensor, " pair"]

    @classmethod
    def of(cls, rows: Float[Tensor, "row state hidden"], shift: Float[Tensor, "state hidden"]) -> Products:
        """The sums over some rows."""
        import torch

        a, b = _pairs(rows.shape[1])
        rows = rows - shift
        x, y = rows[:, a], rows[:, b]
        square = rows.square().sum(-1)
        return cls(
            n=len(rows),
            shift=shift,
            total=rows.sum(0),
            square=square.sum(0),
            cross=torch.einsum("npd,npe->pde", x, y),
            left=torch.einsum("np,npd->pd", square[:, b], x),
            right=torch.einsum("np,npd->pd", square[:, a], y),
            fourth=(square[:, a] * square[:, b]).sum(0),
        )

    def around(self, shift: Float[Tensor, "state hidden"]) -> Products:
        """The same samples' sums around another shift: x becomes x + u, and every power is multiplied out."""
        import torch

        move = self.shift - shift
        if not move.any():
            return self
        a, b = _pairs(len(move))
        u, v = move[a], move[b]
        uu, vv = u.square().sum(1), v.square().sum(1)
        x, y, xx, yy = self.total[a], self.total[b], self.square[a], self.square[b]
        xu, yv = (x * u).sum(1), (y * v).sum(1)
        cross_v = torch.einsum("pde,pe->pd", self.cross, v)
        cross_u = torch.einsum("pde,pd->pe", self.cross, u)
        n = self.n
        return Products(
            n=n,
            shift=shift,
            total=self.total + n * move,
            square=self.square + 2 * (self.total * move).sum(1) + n * move.square().sum(1),
            cross=self.cross
            + torch.einsum("pd,pe->pde", x, v)
            + torch.einsum("pd,pe->pde", u, y)
            + n * torch.einsum("pd,pe->pde", u, v),
            left=self.left + 2 * cross_v + vv[:, None] * x + (yy + 2 * yv + n * vv)[:, None] * u,
            right=self.right + 2 * cross_u + uu[:, None] * y + (xx + 2 * xu + n * uu)[:, None] * v,
            fourth=self.fourth
            + 2 * (self.right * v).sum(1)
            + 2 * (self.left * u).sum(1)
            + 4 * (cross_v * u).sum(1)
            + vv * (xx + 2 * xu)
            + uu * (yy + 2 * yv)
            + n * uu * vv,
        )

    def merge(self, other: Products) -> Products:
        """The sums over both, around this one's shift."""
        other = other.around(self.shift)
        sums = (getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__ if name != "shift")
        n, *rest = sums
        return Products(n, self.shift, *rest)


def _pairs(states: int) -> tuple[list[int], list[int]]:
    every = list(range(states))
    return every + every[:-1], every + every[1:]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the score is made of, and some rows for saying how sure it is."""

    sums: Rows | Products
    sketch: Sketch


def _join(one: Rows | Products, other: Rows | Products) -> Rows | Products:
    if isinstance(one, Rows) and isinstance(other, Rows):
        joined = Rows(one.layers, one.hidden, one.batches + other.batches)
        if joined.n <= one.hidden:
            return joined
        rows = joined.joined()
        return Products.of(rows, rows.mean(0))
    if isinstance(one, Rows):
        one, other = other, one
    assert isinstance(one, Products)
    return one.merge(other if isinstance(other, Products) else Products.of(other.joined(), one.shift))


@dataclass(frozen=True)
class CKA:
    """Linear CKA of the representative tokens before and after each layer; the lowest are tuned.

    Attributes:
        estimator: `biased`, as the authors' code, or `debiased`.
    """

    estimator: Literal["biased", "debiased"] = "biased"
    name: ClassVar[str] = "cka"
    card: ClassVar[Card] = Card(
        "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) before and after the layer",
        "Layer-wise LoRA by CKA, section 3",
        ("states",),
        "one forward pass; memory for (2 L + 1) d x d numbers",
        "lowest",
        direction="lowest",
    )
    kinds: ClassVar[tuple[type, ...]] = (Seen, Rows, Products, Sketch)
    reduction: ClassVar[None] = None

    def init(self, stack: LayerStack) -> Seen:
        """No rows yet."""
        if self.estimator not in ("biased", "debiased"):
            raise ScoreError(f"cka has no estimator {self.estimator!r}", "take biased or debiased")
        return Seen(Rows(len(stack), stack.hidden_size, ()), Sketch.empty(len(stack) + 1, stack.hidden_size))

    def update(self, state: Seen, states: States) -> Seen:
        """Adds a batch."""
        tokens = states.tokens.cpu()
        rows = Rows(tokens.shape[1] - 1, tokens.shape[2], (tokens,))
        return Seen(_join(state.sums, rows), state.sketch.add(states.sample_ids, tokens))

    def merge(self, one: Seen, other: Seen) -> Seen:
        """Joins rows while they are few, and sums from then on."""
        return Seen(_join(one.sums, other.sums), one.sketch.merge(other.sketch))

    def finish(self, state: Seen) -> Finished:
        """The CKA of every layer; how sure it is comes from subsamples, drawn without replacement.

        Raises:
            ScoreError: There are fewer than 4 samples for the debiased estimator, or 2 for the biased.
        """
        import torch

        sums = state.sums
        least = 4 if self.estimator == "debiased" else 2
        if sums.n < least:
            raise ScoreError(f"the {self.estimator} CKA needs {least} samples, not {sums.n}", "give more data")
        if isinstance(sums, Rows):
            rows = sums.joined()
            hidden = sums.hidden
            centred = rows - rows.mean(0)
            hsic = torch.stack(
                [self._from_rows(centred[:, a], centred[:, b]) for a, b in zip(*_pairs(rows.shape[1]), strict=True)]
            )
            varies = centred.square().sum((0, 2)) > CONSTANT * len(rows) * rows.mean(0).square().sum(1)
        else:
            hidden = sums.total.shape[1]
            hsic = self._from_products(sums)
            centre = sums.total / sums.n
            spread = sums.square - sums.n * centre.square().sum(1)
            varies = spread > CONSTANT * sums.n * (sums.shift + centre).square().sum(1)
        if self.estimator == "biased" and sums.n < hidden:
            log.warning(
                "biased CKA is inflated where samples (%d) are fewer than dimensions (%d); see cka:estimator=debiased",
                sums.n, hidden,
            )  # fmt: skip
        constant = {
            layer: f"its {'input' if not varies[layer] else 'output'} is the same for every text"
            for layer in range(len(varies) - 1)
            if not (varies[layer] and varies[layer + 1])
        }
        if len(constant) == len(varies) - 1:
            raise ScoreError("no layer's input and output both vary over the texts", "give texts that differ")
        values = _ratio(hsic).numpy()
        values[list(constant)] = np.nan
        covariance = state.sketch.covariance(sums.n, self._of_parts(state.sketch, constant))
        return Finished(values, covariance=covariance, excluded=constant)

    def _of_parts(
        self, sketch: Sketch, constant: Collection[int]
    ) -> Callable[[Float[Tensor, "row part"]], Float[Tensor, "part layer"]]:
        """From many subsets of the sketch to their CKA: each sum over a subset is a product with its column of ones."""
        import torch

        rows = sketch.rows.double().transpose(0, 1)
        rows = rows - rows.mean(1, keepdim=True) if rows.shape[1] else rows
        grams = self._others(rows @ rows.mT)

        def of_parts(chosen: Float[Tensor, "row part"]) -> Float[Tensor, "part layer"]:
            sums = (grams @ chosen) * chosen
            totals = sums.sum(1)
            hsic = [
                self._hsic(
                    chosen[:, 0].sum(),
                    (((grams[a] * grams[b]) @ chosen) * chosen).sum(0),
                    totals[a] * totals[b],
                    (sums[a] * sums[b]).sum(0),
                )
                for a, b in zip(*_pairs(len(grams)), strict=True)
            ]
            values = _ratio(torch.stack(hsic, dim=-1))
            values[:, list(constant)] = torch.nan
            return values

        return of_parts

    def _others(self, gram: Float[Tensor, "*state row row"]) -> Float[Tensor, "*state row row"]:
        """A Gram matrix as the estimator takes it: the debiased one without what a row has with itself."""
        import torch

        return gram if self.estimator == "biased" else gram * (1 - torch.eye(gram.shape[-1], dtype=gram.dtype))

    def _hsic(
        self, n: int | Tensor, trace: Float[Tensor, "*of"], alone: Float[Tensor, "*of"], both: Float[Tensor, "*of"]
    ) -> Float[Tensor, "*of"]:
        """HSIC of n rows from sums over their Gram matrices K and M.

        Args:
            n: Rows.
            trace: Sum of K_ij M_ij.
            alone: Sum of K times sum of M.
            both: Sum over i of the sums of row i of K and of M, multiplied.
        """
        if self.estimator == "biased":
            return trace - 2 * both / n + alone / n**2
        return (trace + alone / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))

    def _from_rows(self, x: Float[Tensor, "row hidden"], y: Float[Tensor, "row hidden"]) -> Float[Tensor, ""]:
        """HSIC of centred rows."""
        k, m = self._others(x @ x.T), self._others(y @ y.T)
        return self._hsic(len(x), (k * m).sum(), k.sum() * m.sum(), k.sum(0) @ m.sum(0))

    def _from_products(self, s: Products) -> Float[Tensor, " pair"]:
        """The same from sums, for all pairs: every term of the Gram form is one of these sums."""
        import torch

        n = s.n
        a, b = _pairs(len(s.total))
        x, y = s.total[a], s.total[b]
        if self.estimator == "biased":
            return (s.cross - x.unsqueeze(2) * y.unsqueeze(1) / n).square().sum((1, 2))
        trace = s.cross.square().sum((1, 2)) - s.fourth
        k_sum = x.square().sum(1) - s.square[a]
        m_sum = y.square().sum(1) - s.square[b]
        both = torch.einsum("pd,pde,pe->p", x, s.cross, y) - (x * s.left).sum(1) - (s.right * y).sum(1) + s.fourth
        return self._hsic(n, trace, k_sum * m_sum, both)


def _ratio(hsic: Float[Tensor, "*part pair"]) -> Float[Tensor, "*part layer"]:
    """CKA of every layer from the HSIC of each state with itself, then of each with the next."""
    states = (hsic.shape[-1] + 1) // 2
    own, cross = hsic[..., :states], hsic[..., states:]
    return cross / (own[..., :-1] * own[..., 1:]).clamp(min=0).sqrt()
