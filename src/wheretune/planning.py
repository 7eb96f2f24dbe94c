"""Scores and one choice on every axis -> a plan with its cost; and many scorers' choices side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wheretune.cost.flops import EPOCHS
from wheretune.cost.price import BATCH_SIZE, price
from wheretune.errors import PlanError
from wheretune.heads.base import count
from wheretune.heads.last_token import LastToken
from wheretune.records.base import Spec
from wheretune.records.plan import Plan
from wheretune.records.scores import Choice
from wheretune.schedules.static import Static
from wheretune.selectors.base import AdaptiveSelector, Selector
from wheretune.selectors.near import Near
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.heads.base import Head
    from wheretune.records.cost import Cost
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import LayerScore, LayerScores
    from wheretune.tuners.base import Tuner

AnySelector = Selector | AdaptiveSelector


def choose(scores: LayerScores, selector: AnySelector) -> Choice:
    """The layers that `selector` makes of `scores`, how sure that is, and what an adaptive one went by.

    Raises:
        PlanError: k is below 1 or above the number of layers, or a named layer does not exist.
    """
    from wheretune.scoring.confidence import how_sure

    plain, reason = selector.adapt(scores) if isinstance(selector, AdaptiveSelector) else (selector, None)
    if isinstance(selector, Near):
        spec = Spec(selector.selector.name, {**Spec.of(selector.selector).params, "near": selector.tolerance})
    else:
        spec = Spec.of(selector)
    return Choice(spec, plain.select(scores.values), how_sure(scores, plain), reason)


@dataclass(frozen=True)
class Agreement:
    """Several scorers side by side, by the same number of layers.

    Attributes:
        names: Of the scorers.
        correlations: Spearman's rank correlation over layers of every two, where high means important: scores that
            their source tunes from the lowest are turned round. None where a scorer ranks all alike or too few layers.
        choices: What each would choose as its source does.
    """

    names: tuple[str, ...]
    correlations: tuple[tuple[float | None, ...], ...]
    choices: tuple[Choice, ...]


def agreement(every: Sequence[LayerScores], selectors: Sequence[AnySelector], lowest: Sequence[bool]) -> Agreement:
    """How alike several scorers rank the layers, and which each would choose.

    Args:
        every: Scores of one model.
        selectors: What chooses by each.
        lowest: Of each, whether its source tunes the layers with the lowest scores.
    """
    from scipy.stats import spearmanr

    turned = [-scores.values if turn else scores.values for scores, turn in zip(every, lowest, strict=True)]

    def correlation(a: int, b: int) -> float | None:
        both = np.isfinite(turned[a]) & np.isfinite(turned[b])
        one, other = turned[a][both], turned[b][both]
        if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
            return None
        return float(spearmanr(one, other).statistic)

    places = range(len(every))
    return Agreement(
        names=tuple(str(scores.scorer.name) for scores in every),
        correlations=tuple(tuple(correlation(a, b) for b in places) for a in places),
        choices=tuple(choose(scores, selector) for scores, selector in zip(every, selectors, strict=True)),
    )


def plan(
    scores: LayerScores,
    selector: AnySelector | None,
    *,
    tuner: Tuner | None = None,
    head: Head | None = None,
) -> Plan:
    """The plan that `selector` makes of `scores`.

    Args:
        scores: From `score`; selectors that need none (top, bottom, random, explicit) read only the
            model and its layers from it.
        selector: For example `BlockHighest(k=3)`; None only with the tuner `HeadOnly()`.
        tuner: How the layers are tuned; whole layers by default.
        head: What sits on top when wheretune trains (a model of the user's own keeps its head); the last
            token by default.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, or there is
            no selector.
    """
    tuner = tuner if tuner is not None else WholeLayers()
    head = head if head is not None else LastToken()
    if (selector is None) == tuner.needs_layers:
        raise PlanError(f"the tuner {tuner.name} does not go with {selector}", "choose layers, or head-only")
    model = scores.model
    choice = choose(scores, selector) if selector is not None else Choice(Spec("none"), (), None, None)
    layers = choice.layers
    outputs = max(len(scores.data.classes), 1)
    on_top = count(head, model.layers, model.hidden_size, outputs, model.causal)
    return Plan(
        layers=layers,
        selector=choice.selector,
        tuner=Spec.of(tuner),
        head=Spec.of(head),
        schedule=Spec.of(Static()),
        model=model,
        scores_digest=scores.digest,
        cost=cost_of(model, scores.layers, layers, tuner, head, on_top, scores.tokens, scores.data.rows),
        confidence=choice.confidence,
        reason=choice.reason,
        chosen=tuple(scores.layers[layer] for layer in layers),
        scorer=scores.scorer,
    )


def cost_of(
    model: ModelInfo,
    every: Sequence[LayerScore],
    layers: Sequence[int],
    tuner: Tuner,
    head: Head,
    on_top: int,
    tokens: float | None,
    texts: int,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
) -> Cost:
    """What it costs to tune some layers so; see `cost.price`.

    Args:
        model: The model.
        every: All its layers.
        layers: The chosen ones.
        tuner: How they are tuned.
        head: What sits on top.
        on_top: The head's parameters.
        tokens: The mean length of a text; None where that is not known.
        texts: How many there are.
        epochs: Passes over them.
        batch_size: Texts in a batch.
    """
    return price(
        model,
        every,
        layers,
        below=tuner.count(model, every, layers),
        on_top=on_top,
        norms=tuner.trains_norms,
        embeddings=tuner.trains_embeddings,
        all_states=head.all_layers,
        tokens=tokens,
        texts=texts,
        batch_size=batch_size,
        epochs=epochs,
    )
