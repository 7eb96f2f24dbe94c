"""The best layers that a budget pays for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune import catalog
from wheretune.cost.flops import EPOCHS, TOKENS, compute_share
from wheretune.cost.training import Training, known_parts
from wheretune.errors import PlanError
from wheretune.selectors.base import direction_of, rank
from wheretune.selectors.near import NEAR

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores
    from wheretune.selectors.base import Selector, Values


@dataclass(frozen=True)
class Budget:
    """The layers of the best total score within a share of full fine-tuning's compute or parameters.

    For every lowest layer, the best of those above are added as long as they fit (greedily, which is exact for layers
    of one size); the best of these sets wins. A layer counts by how far its score lies above the worst. Totals within 1
    % of the best prefer the set whose lowest layer is highest, which costs least. Compute is what the FLOP model of
    `cost.flops` says of whole layers over 3 epochs with every saving, so a plan's `expected_speed_up` is 1 over what is
    spent; parameters are the chosen layers' share of the base model.

    With `schedules` the schedule is chosen too: `static` trains the layers above, one that moves all layers in turn.
    The best score is taken, each layer's times the share of the steps in which it trains; see `budgeting`.

    Attributes:
        share: Of full fine-tuning's, above 0 and up to 1.
        of: `compute` or `parameters`.
        prefer: Which scores are good, `highest` or `lowest`; None takes what the scorer declares.
        schedules: Names of schedules to choose among (`static+lift`), or `any` that can serve.
    """

    share: float = 0.5
    of: Literal["compute", "parameters"] = "compute"
    prefer: Literal["highest", "lowest"] | None = None
    schedules: tuple[str, ...] = ()
    name: ClassVar[str] = "budget"
    needs_scores: ClassVar[bool] = True

    def adapt(self, scores: LayerScores) -> tuple[Selector, str | None]:
        """The selector for these layers' sizes, and what it spends.

        Raises:
            PlanError: The share is not above 0 and up to 1, or no layer fits into it.
        """
        self.check(len(scores.layers))
        depths, sizes = self._prices(scores)
        selector = Affordable(self.share, depths, sizes, (self.prefer or direction_of(scores.scorer)) == "highest")
        spent = selector.cost(selector.select(scores.values))
        over = f" over {EPOCHS} epochs" if self.of == "compute" else ""
        return selector, f"{spent:.1%} of full fine-tuning's {self.of}{over} spent, of {self.share:.1%} allowed"

    def _prices(self, scores: LayerScores) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What it costs to reach down to each layer, and what to train it besides."""
        if self.of == "parameters":
            sizes = tuple(layer.parameters / scores.model.parameters for layer in scores.model.layers)
            return (0.0,) * len(sizes), sizes
        parts = [known_parts(layer) for layer in scores.model.layers]
        tokens = TOKENS if scores.tokens is None else scores.tokens
        speech = 0 if scores.learned is None else scores.model.vocabulary * scores.model.hidden_size

        def share(layer: int, weights: float) -> float:
            training = Training((layer,), share=weights, read=scores.learned or 1.0, speech=speech)
            return compute_share(parts, training, tokens)

        shares = [[share(layer, weights) for layer in range(len(parts))] for weights in (0.0, 1.0)]
        return tuple(shares[0]), tuple(trained - reached for reached, trained in zip(*shares, strict=True))

    def check(self, layers: int) -> None:
        """Complains of settings that are not known."""
        if not 0 < self.share <= 1:
            raise PlanError(f"the budget is {self.share}", "give a share above 0, up to 1", "budget")
        if self.of not in ("compute", "parameters"):
            raise PlanError(f"there is no budget of {self.of}", "give compute or parameters", "budget_of")
        if self.prefer not in ("highest", "lowest", None):
            raise PlanError(f"a budget cannot prefer the {self.prefer} scores", "give highest or lowest", "prefer")
        self._check_schedules()

    def _check_schedules(self) -> None:
        """Complains of schedules that cannot be chosen among."""
        if self.schedules and self.of == "parameters":
            raise PlanError(
                "a schedule that moves trains all layers in turn, so a budget of parameters cannot choose among "
                "schedules",
                "give a budget of compute, or name the schedule",
                "budget_of",
            )
        for name in self.schedules if self.schedules != ("any",) else ():
            catalog.find("schedule", name)


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
        ranked = rank(scores)
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
            raise PlanError(f"a budget of {self.share:.1%} pays for no layer", f"allow {least:.3f} or more", "budget")
        highest = max(total for total, _, _ in best)
        return max((lowest, layers) for total, lowest, layers in best if total >= (1 - NEAR) * highest)[1]
