"""*SALF* (S, algorithms 3 and 4): stages from shallow to deep, each on samples whose layers below need no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune.errors import ConfigError
from wheretune.schedules.draws import key
from wheretune.schedules.layers import check_layers, first_state

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import OptimizerState, Signal, State, Unit

MANY = 10_000  # samples, for the shares that are expected


@dataclass(frozen=True)
class Salf:
    """SALF: stage i trains the layers from the i-th up, on as many samples as its budget says, none of them twice.

    The samples of a stage are first those whose eof layer (the layer with the largest gain in semantic deviation, of
    the untuned model) is no higher than the stage's, in the order of the data, and then random ones of the rest
    (algorithm 4). Budgets over L stages of n samples: `half` gives equal shares, the remainder to the first stages;
    `geometric` c, 2 c, 4 c, ...; `arithmetic` c, 2 c, 3 c, ... with c the smallest whole number that makes n (1 for the
    geometric budgets of the paper's 32 layers). They are
    filled `breadth-first` (stage 0, then 1, ... until the data is gone) or `depth-first` (one sample to every stage
    that has budget left, round after round).

    Decided: eof layers are found once, before the training, or with `rescan`, as the algorithm has it, at the beginning
    of each stage anew, of the samples that are left and by the model as it is then; a stage's samples are shuffled by
    the seed, and batches never mix stages; one pass; the state of the optimizer of a layer that freezes is dropped. In
    a Trainer of the user's own, which orders its rows itself, the stages take the same shares of the steps.

    Attributes:
        budget: How many samples each stage gets.
        fill: How budgets that are larger than the data are filled.
        variant: Of the semantic deviation: `cosine`, `ce` or `rank` (S table 6).
        rescan: Eof layers are found again at each stage: one more forward pass over the samples left.
        ends: The steps before which the stages end, once the rows are ordered; left empty before.
    """

    budget: Literal["half", "geometric", "arithmetic"] = "half"
    fill: Literal["breadth-first", "depth-first"] = "depth-first"
    variant: Literal["cosine", "ce", "rank"] = "cosine"
    rescan: bool = False
    ends: tuple[int, ...] = ()
    name: ClassVar[str] = "salf"
    moves: ClassVar[bool] = True
    unit: ClassVar[Unit] = "layer"
    observes: ClassVar[tuple[Signal, ...]] = ()
    optimizer_state: ClassVar[OptimizerState] = "drop"
    embeddings: ClassVar[bool | None] = None

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner)

    def expected(self, chosen: int) -> tuple[float, ...]:
        return tuple(count / MANY for count in accumulate(self.amounts(MANY, chosen)))

    def amounts(self, samples: int, stages: int) -> list[int]:
        """How many samples each stage gets."""
        budgets = budgets_of(self.budget, samples, stages)
        return breadth_first(budgets, samples) if self.fill == "breadth-first" else depth_first(budgets, samples)

    def stages(self, eof_layers: Sequence[int], chosen: Sequence[int], seed: int) -> list[list[int]]:
        """The rows of every stage, shuffled."""
        left = dict(enumerate(eof_layers))
        found: list[list[int]] = []
        for stage, amount in enumerate(self.amounts(len(eof_layers), len(chosen))):
            found.append(self.stage(stage, amount, left, chosen[stage], seed))
            for row in found[-1]:
                del left[row]
        return found

    def stage(self, stage: int, amount: int, left: Mapping[int, int], layer: int, seed: int) -> list[int]:
        """The rows of one stage, shuffled."""
        matching = [row for row, eof in left.items() if eof <= layer][:amount]
        rows = set(matching)
        if len(matching) < amount:
            others = sorted(left.keys() - rows, key=lambda row: key("salf", seed, row))
            rows |= set(others[: amount - len(matching)])
        shuffled: list[int] = np.random.default_rng([seed, stage]).permutation(sorted(rows)).tolist()
        return shuffled

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        ends = self.ends or tuple(accumulate(self.amounts(steps, len(chosen))))
        if len(ends) != len(chosen):
            raise ConfigError(
                f"the schedule {self.name} has the ends of {len(ends)} stages, and {len(chosen)} layers are chosen",
                "leave the ends out: they are computed",
                "ends",
            )
        return {**first_state(layers, chosen, steps, seed), "ends": np.array(ends, dtype=np.int64)}

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        return state

    def active(self, state: State, step: int) -> frozenset[int]:
        return frozenset(state["chosen"][self._stage(state, step) :].tolist())

    def lowest(self, state: State, step: int) -> int:
        return int(state["chosen"][self._stage(state, step)])

    def _stage(self, state: State, step: int) -> int:
        last = len(state["chosen"]) - 1
        return min(int(np.searchsorted(state["ends"], step, side="right")), last)


def budgets_of(budget: str, samples: int, stages: int) -> list[int]:
    """How many samples each stage may take; together as many as there are, or more."""
    if budget == "half":
        each, more = divmod(samples, stages)
        return [each + (stage < more) for stage in range(stages)]
    shares = [2**stage if budget == "geometric" else stage + 1 for stage in range(stages)]
    once = -(-samples // sum(shares))
    return [min(once * share, samples) for share in shares]


def breadth_first(budgets: Sequence[int], samples: int) -> list[int]:
    """Fills one stage after the other."""
    found, left = [], samples
    for budget in budgets:
        found.append(min(budget, left))
        left -= found[-1]
    return found


def depth_first(budgets: Sequence[int], samples: int) -> list[int]:
    """One to every stage that has budget left, round after round."""
    found, left = [0] * len(budgets), samples
    while left:
        for stage, budget in enumerate(budgets):
            if left and found[stage] < budget:
                found[stage] += 1
                left -= 1
    return found
