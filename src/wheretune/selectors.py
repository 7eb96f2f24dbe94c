"""Scores -> layers. A selector is a frozen object of settings with `select(values)`.

Layers come back ascending, counted from 0. Ties go to the lower layer. A score that is not a number marks a layer
that is no candidate. Selecting nothing, or more layers than there are, is an error, never a silent full
fine-tuning.

`Near`, `Auto` and `Budget` look at more than the values first: they `adapt` to the scores and say what they went by.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wheretune.cost import EPOCHS, TOKENS, compute_share, known_parts
from wheretune.errors import PlanError
from wheretune.types import LayerScores

Values = Float[np.ndarray, " layer"]


@runtime_checkable
class Selector(Protocol):
    """Chooses layers by their scores."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool]

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""


@runtime_checkable
class PairwiseSelector(Selector, Protocol):
    """A selector whose choice hangs on which of two layers scores higher, pair by pair."""

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The pairs (chosen, rival, sign), where sign * (chosen's score - rival's) must stay positive."""


@runtime_checkable
class AdaptiveSelector(Protocol):
    """Decides by more than the values how layers are chosen."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool]

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector that these scores ask for, and why, in words and numbers."""

    def check(self, layers: int) -> None:
        """Complains, before anything is scored, of what cannot choose among so many layers."""


def check_selector(selector: "Selector | AdaptiveSelector", layers: int) -> None:
    """Complains, before anything is scored, of what cannot choose among so many layers.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, or another setting is
            wrong.
    """
    if isinstance(selector, AdaptiveSelector):
        selector.check(layers)
    else:
        selector.select(np.zeros(layers))


def blocks(layers: int, k: int) -> tuple[range, ...]:
    """The layers in k contiguous blocks; sizes differ by at most one, the earlier blocks take the rest."""
    size, rest = divmod(layers, k)
    edges = [number * size + min(number, rest) for number in range(k + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def _check(k: int, layers: int) -> None:
    if not 1 <= k <= layers:
        raise PlanError(f"k is {k}, but the model has {layers} layers", f"give a k from 1 to {layers}")


def _ranked(values: Values) -> list[int]:
    """The candidates from the highest score to the lowest, ties to the lower layer."""
    candidates = [layer for layer in range(len(values)) if not np.isnan(values[layer])]
    return sorted(candidates, key=lambda layer: (-values[layer], layer))


def _pick(values: Values, k: int) -> tuple[int, ...]:
    """The k candidates with the highest scores, ascending."""
    ranked = _ranked(values)
    _check(k, len(values))
    if k > len(ranked):
        raise PlanError(f"k is {k}, but only {len(ranked)} layers are candidates", f"give a k from 1 to {len(ranked)}")
    return tuple(sorted(ranked[:k]))


def _of_each_block(values: Values, k: int, place: Callable[[int], int]) -> tuple[int, ...]:
    """Of each block's candidates, from the highest score to the lowest, the one at `place(how many there are)`."""
    _check(k, len(values))
    chosen = []
    for block in blocks(len(values), k):
        ranked = _ranked(values[block.start : block.stop])
        if not ranked:
            raise PlanError(f"layers {block.start} to {block.stop - 1} hold no candidate", "choose fewer blocks")
        chosen.append(block.start + ranked[place(len(ranked))])
    return tuple(chosen)


def _contests(
    values: Values, chosen: Sequence[int], sign: int, groups: Sequence[range] = ()
) -> list[tuple[int, int, int]]:
    """Each chosen layer against the candidates of its group that were not chosen; all are one group by default."""
    candidates = set(_ranked(values)) - set(chosen)
    return [
        (winner, rival, sign)
        for group in groups or (range(len(values)),)
        for winner in chosen
        for rival in sorted(candidates)
        if winner in group and rival in group
    ]


@dataclass(frozen=True)
class Highest:
    """The k layers with the highest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _pick(values, self.k)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return _contests(values, self.select(values), 1)


@dataclass(frozen=True)
class Lowest:
    """The k layers with the lowest scores (T 3.1)."""

    k: int
    name: ClassVar[str] = "lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _pick(-values, self.k)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against every layer left out."""
        return _contests(values, self.select(values), -1)


@dataclass(frozen=True)
class BlockHighest:
    """The highest layer of each of k contiguous blocks: PRiSM's choice (P 3.1)."""

    k: int
    name: ClassVar[str] = "block-highest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(values, self.k, lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return _contests(values, self.select(values), 1, blocks(len(values), self.k))


@dataclass(frozen=True)
class BlockLowest:
    """The lowest layer of each of k contiguous blocks (T 3.1)."""

    k: int
    name: ClassVar[str] = "block-lowest"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.k, lambda many: 0)

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of its block."""
        return _contests(values, self.select(values), -1, blocks(len(values), self.k))


@dataclass(frozen=True)
class BlockMedian:
    """The layer with the median score of each of k blocks; of an even block, its lower middle (T table 9)."""

    k: int
    name: ClassVar[str] = "block-median"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return _of_each_block(-values, self.k, lambda many: (many - 1) // 2)


@dataclass(frozen=True)
class BlockRandom:
    """A random layer of each of k contiguous blocks (T table 9)."""

    k: int
    seed: int = 0
    name: ClassVar[str] = "block-random"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        generator = np.random.default_rng(self.seed)
        return tuple(int(generator.integers(b.start, b.stop)) for b in blocks(len(values), self.k))


@dataclass(frozen=True)
class MiddleBest:
    """The k highest layers of the middle third, floor(L/3) to floor(2 L/3) - 1 (OLFT 2.2)."""

    k: int = 1
    name: ClassVar[str] = "middle-best"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        start, stop = len(values) // 3, 2 * len(values) // 3
        if start == stop:
            raise PlanError(f"a model of {len(values)} layers has no middle third", "use another selector")
        return tuple(start + layer for layer in _pick(values[start:stop], self.k))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """Every chosen layer against the others of the middle third."""
        return _contests(values, self.select(values), 1, (range(len(values) // 3, 2 * len(values) // 3),))


@dataclass(frozen=True)
class Suffix:
    """The layer with the highest score and all above it (SALF algorithm 3)."""

    name: ClassVar[str] = "suffix"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(range(_pick(values, 1)[0], len(values)))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The layer with the highest score against all others."""
        return _contests(values, _pick(values, 1), 1)


@dataclass(frozen=True)
class Top:
    """The k layers nearest the output: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "top"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(range(len(values) - self.k, len(values)))


@dataclass(frozen=True)
class Bottom:
    """The k layers nearest the input: a baseline of every paper."""

    k: int
    name: ClassVar[str] = "bottom"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        return tuple(range(self.k))


@dataclass(frozen=True)
class Random:
    """k random layers: a baseline of every paper."""

    k: int
    seed: int = 0
    name: ClassVar[str] = "random"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        _check(self.k, len(values))
        drawn = np.random.default_rng(self.seed).choice(len(values), self.k, replace=False)
        return tuple(sorted(int(layer) for layer in drawn))


@dataclass(frozen=True)
class Explicit:
    """The layers the user names."""

    layers: Sequence[int]
    name: ClassVar[str] = "explicit"
    needs_scores: ClassVar[bool] = False

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        missing = [layer for layer in self.layers if not 0 <= layer < len(values)]
        if missing:
            raise PlanError(f"the model has no layer {missing[0]}", f"name layers from 0 to {len(values) - 1}")
        if not self.layers:
            raise PlanError("no layer is named", "name at least one with --layers")
        return tuple(sorted(set(self.layers)))


# --- selectors that adapt to the scores -----------------------------------------------------------

NEAR = 0.01  # of the profile's range: what auto and budget take for equal
PROMINENT = 0.2  # of the profile's range: how far a peak must stand out on both sides
DROP = 0.5  # of the profile's range: how far a late divergence must fall
STEADY = 2.0  # standard deviations that a drop must measure, and how much more the deep end may vary than the rest


@dataclass(frozen=True)
class Near:
    """A selector's choice, with a higher layer in place of a lower one where their scores are near-equal.

    The lowest trained layer decides the cost: gradients need not flow below it.

    Attributes:
        selector: Compares layers pair by pair.
        tolerance: What counts as near, as a share of the profile's range.
    """

    selector: Selector | AdaptiveSelector
    tolerance: float
    name: ClassVar[str] = "near"
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise PlanError(f"--near is {self.tolerance}", "give a share of the profile's range, from 0 to below 1")
        if not isinstance(self.selector, PairwiseSelector):
            raise PlanError(f"--near does not go with {self.selector.name}: it compares no pairs of layers", "drop one")

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return self._pairwise.select(self._lifted(values))

    @property
    def _pairwise(self) -> PairwiseSelector:
        assert isinstance(self.selector, PairwiseSelector)  # as __post_init__ made sure
        return self.selector

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """Itself, and which layers gave way."""
        values = scores.values
        before, after = set(self._pairwise.select(values)), set(self.select(values))
        gone, come = sorted(before - after), sorted(after - before)
        if not gone:
            return self, None
        told = f"{_named(come, values)} for {_named(gone, values)}" if come else f"none for {_named(gone, values)}"
        return self, f"near-equal scores prefer the higher layer, which costs less to train: {told}"

    def check(self, layers: int) -> None:
        """Complains of what cannot choose among so many layers."""
        self._pairwise.select(np.zeros(layers))

    def _lifted(self, values: Values) -> Values:
        """Values with which every near-equal contest goes to the higher layer.

        Near is meant of the layer that would have been chosen, so however often one gives way to the next, no more than
        the tolerance is lost.
        """
        room = self.tolerance * (np.nanmax(values) - np.nanmin(values))
        lifted, rightful = values.copy(), values.copy()
        while self.tolerance > 0:  # every round moves the choice up, so it ends
            contests = sorted(self._pairwise.contests(lifted), key=lambda contest: (contest[0], -contest[1]))
            near = [c for c in contests if c[1] > c[0] and abs(rightful[c[0]] - values[c[1]]) <= room]
            if not near:
                break
            lower, higher, sign = near[0]
            lifted[higher] = np.nextafter(lifted[lower], sign * np.inf)
            rightful[higher] = rightful[lower]
        return lifted


def _named(layers: Sequence[int], values: Values) -> str:
    return ", ".join(f"layer {layer} ({values[layer]:.4f})" for layer in layers)


@dataclass(frozen=True)
class Auto:
    """k layers by the shape of a centrality profile: late divergence, a middle peak, or neither (T 5.5).

    The first rule that fits, on the candidates' scores in three equal parts by depth:

    1. late divergence -> lowest: the last third lies below the rest by half the profile's range or more, and by two of
       its own standard deviations or more (SST-2, E2E);
    2. unstable deep end -> block-highest: the last third's standard deviation is twice the rest's or more (MRPC);
    3. several peaks -> block-highest: two or more that stand out by a fifth of the range (CoLA, STS-B);
    4. one peak in the middle third -> highest (MR);
    5. otherwise block-highest, the best on average (T tables 1 and 2).

    The paper describes shapes in words; the numbers are ours. Near-equal scores prefer the higher layer.

    Attributes:
        k: Layers to choose.
    """

    k: int
    name: ClassVar[str] = "auto"
    needs_scores: ClassVar[bool] = True

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector of the rule that fired, and its numbers.

        Raises:
            PlanError: The scores are no centralities, whose shape the rules are about.
        """
        if scores.similarity is None:
            raise PlanError(
                f"auto reads the shape of a centrality profile, and {scores.scorer.name} has none",
                "score with cosine-centrality, or choose another --select",
            )
        shaped = Shaped(self.k, tuple(np.nan_to_num(scores.stds).tolist()))
        selector, why = shaped.rule(scores.values)
        _, swapped = Near(selector, NEAR).adapt(scores)
        return shaped, "; ".join(reason for reason in (why, swapped) if reason is not None)

    def check(self, layers: int) -> None:
        """Complains of what cannot choose among so many layers."""
        _check(self.k, layers)


@dataclass(frozen=True)
class Shaped:
    """What `Auto` becomes for layers whose scores vary over samples by so much: decides again for any values.

    Attributes:
        k: Layers to choose.
        stds: The standard deviation of every layer's score over samples.
    """

    k: int
    stds: tuple[float, ...]
    name: ClassVar[str] = "shaped"
    needs_scores: ClassVar[bool] = True

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return Near(self.rule(values)[0], NEAR).select(values)

    def rule(self, values: Values) -> tuple[PairwiseSelector, str]:
        """The selector of the rule that fires, and its numbers."""
        stds = np.array(self.stds)
        count, span = len(values), float(np.ptp(values))
        if count < 3 or span == 0:
            return BlockHighest(self.k), "no shape: too few layers, or all alike -> block-highest"
        deep = slice(count - count // 3, count)
        rest = slice(0, count - count // 3)
        drop = float(values[rest].mean() - values[deep].mean())
        shaky, calm = float(stds[deep].mean()), float(stds[rest].mean())
        if drop >= DROP * span and drop >= STEADY * shaky:
            return Lowest(self.k), (
                f"late divergence: the last third lies {drop:.4f} below the rest ({drop / span:.0%} of the range; its "
                f"standard deviation is {shaky:.4f}) -> lowest"
            )
        if shaky >= STEADY * calm > 0:
            return BlockHighest(self.k), (
                f"unstable deep end: its standard deviation is {shaky:.4f}, the rest's {calm:.4f} -> block-highest"
            )
        peaks = _peaks(values, PROMINENT * span)
        where = ", ".join(map(str, peaks))
        if len(peaks) > 1:
            return BlockHighest(self.k), f"several peaks (layers {where}) -> block-highest"
        if peaks and count // 3 <= peaks[0] < 2 * count // 3:
            return Highest(self.k), f"one peak, in the middle (layer {where}: {values[peaks[0]]:.4f}) -> highest"
        return BlockHighest(self.k), f"no late divergence, no middle peak (peak at layer {where}) -> block-highest"


def _peaks(values: Values, prominence: float) -> list[int]:
    """The local maxima that stand out, the ends included."""
    from scipy.signal import find_peaks

    low = values.min() - prominence  # so that an end can be a peak
    found, _ = find_peaks(np.concatenate([[low], values, [low]]), prominence=prominence)
    return [int(place) - 1 for place in found]


@dataclass(frozen=True)
class Budget:
    """The layers of the best total score within a share of full fine-tuning's compute or parameters.

    For every lowest layer, the best of those above are added as long as they fit (greedily, which is exact for layers
    of one size); the best of these sets wins. A layer counts by how far its score lies above the worst. Totals within 1
    % of the best prefer the set whose lowest layer is highest, which costs least. Compute is what the FLOP model of
    `cost.py` says of whole layers over 3 epochs with every saving, so a plan's `expected_speed_up` is 1 over what is
    spent; parameters are the chosen layers' share of the base model.

    Attributes:
        share: Of full fine-tuning's, above 0 and up to 1.
        of: `compute` or `parameters`.
        prefer: Which scores are good: `highest` or `lowest`.
    """

    share: float = 0.5
    of: Literal["compute", "parameters"] = "compute"
    prefer: Literal["highest", "lowest"] = "highest"
    name: ClassVar[str] = "budget"
    needs_scores: ClassVar[bool] = True

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector for these layers' sizes, and what it spends.

        Raises:
            PlanError: The share is not above 0 and up to 1, or no layer fits into it.
        """
        self.check(len(scores.layers))
        depths, sizes = self._prices(scores)
        selector = Affordable(self.share, depths, sizes, self.prefer == "highest")
        spent = selector.cost(selector.select(scores.values))
        over = f" over {EPOCHS} epochs" if self.of == "compute" else ""
        return selector, f"{spent:.1%} of full fine-tuning's {self.of}{over} spent, of {self.share:.1%} allowed"

    def _prices(self, scores: LayerScores) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What it costs to reach down to each layer, and what to train it besides."""
        if self.of == "parameters":
            sizes = tuple(layer.parameters / scores.model.parameters for layer in scores.layers)
            return (0.0,) * len(sizes), sizes
        parts = [known_parts(layer) for layer in scores.layers]
        tokens = TOKENS if scores.tokens is None else scores.tokens
        shares = [
            [compute_share(parts, (layer,), weights, tokens=tokens) for layer in range(len(parts))]
            for weights in (0.0, 1.0)
        ]
        return tuple(shares[0]), tuple(trained - reached for reached, trained in zip(*shares, strict=True))

    def check(self, layers: int) -> None:
        """Complains of settings that are not known."""
        if not 0 < self.share <= 1:
            raise PlanError(f"--budget is {self.share}", "give a share above 0, up to 1")
        if self.of not in ("compute", "parameters") or self.prefer not in ("highest", "lowest"):
            raise PlanError(f"a budget of {self.of} that prefers the {self.prefer} is not known", "see --help")


@dataclass(frozen=True)
class Affordable:
    """What `Budget` becomes for layers of known prices.

    Attributes:
        share: What may be spent.
        depths: What it costs that each layer is the lowest that trains.
        sizes: What it costs to train each layer besides.
        high: Whether high scores are good.
    """

    share: float
    depths: tuple[float, ...]
    sizes: tuple[float, ...]
    high: bool
    name: ClassVar[str] = "affordable"
    needs_scores: ClassVar[bool] = True

    def cost(self, layers: Sequence[int]) -> float:
        """The share that tuning `layers` costs."""
        return self.depths[min(layers)] + sum(self.sizes[layer] for layer in layers)

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        scores = values if self.high else -values
        worth = scores - np.nanmin(scores)
        ranked = _ranked(scores)
        best: list[tuple[float, int, tuple[int, ...]]] = []
        for lowest in ranked:
            chosen = [lowest]
            if self.cost(chosen) > self.share:
                continue
            for layer in ranked:
                if layer > lowest and worth[layer] > 0 and self.cost([*chosen, layer]) <= self.share:
                    chosen.append(layer)
            best.append((float(worth[chosen].sum()), lowest, tuple(sorted(chosen))))
        if not best:
            least = min(self.cost([layer]) for layer in ranked)
            raise PlanError(f"a budget of {self.share:.1%} pays for no layer", f"allow {least:.3f} or more")
        highest = max(total for total, _, _ in best)
        return max((lowest, layers) for total, lowest, layers in best if total >= (1 - NEAR) * highest)[1]
