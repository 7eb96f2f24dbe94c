"""*RECAP* (Ilhan et al., CVPR 2024): rounds in which a pruned and masked copy trains, and is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune.errors import ConfigError
from wheretune.schedules.layers import check_layers, check_own_weights, first_state
from wheretune.schedules.pruning import MOST, groups_of, share_of

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.base import Spec
    from wheretune.records.model import LayerInfo
    from wheretune.schedules.base import OptimizerState, Scheduled, Signal, State, Unit


@dataclass(frozen=True)
class Recap:
    """RECAP: a working copy without the least important heads and MLP units trains, but for its least important rows.

    A round begins with the full model. (1) Every head (its rows of queries, keys and values with their biases, its
    columns of the map after attention) and every MLP unit (a row of the first maps with its bias, a column of the last)
    has an importance: the sum over the unit's entries of (g w)^2, the mean over its tensors and over some batches. The
    share `prune` with the lowest is removed, heads and MLP units apart, across all layers, at most 85 % of a layer; in
    `substeps` equal parts, with new importances in between: the j-th removes `ratios(prune, substeps)[j]` of what is
    left. (2) Of what is left, every row of the queries', keys', values' and first MLP maps and every column of the two
    last maps has the sum of its g^2, the mean over the same batches; the share `mask` with the lowest does not train,
    attention and MLP apart, across all layers. (3) The rest trains: what is removed is really gone from the maps, so
    they run smaller, and gradients and moments exist for what trains only. Embeddings, norms, the biases of the two
    last maps, pooler and head train whole. (4) What trained is written back into the full model.

    As the authors' code has it, where it could be read: the pruner that it calls is in no public release. Decided:

    - With key-value heads that several heads of queries share, a unit is one of them with its queries. Ties: the lower
      layer, then the lower unit stays. So many units are removed as is the floor of `prune` times their number.
    - The gradients g are those of the mean loss of a batch, of the whole model as it is then, without dropout. The
      batches are drawn by (seed, round) and as large as those of the training.
    - The rounds take equal shares of the steps, the first ones one more; the first is round 0. (The code counts 2
      epochs a round: choose `--epochs` so.)
    - Moments of what trained are kept for later rounds; those of what did not are scaled by beta1 and beta2, once a
      round. Step counts are kept. (The code drops round 0's, stores them in bf16 and counts steps twice.) What is
      masked does not move. (In the code it drifts by its moments, which is undone by writing back.)
    - The learning rate falls linearly to 0 within every round, from the peak, in place of Trainer's own curve; with
      nothing pruned and nothing masked this is full fine-tuning and Trainer's own stays.

    Attributes:
        prune: r_p, the share of the heads and of the MLP units that is removed.
        mask: r_f, the share of the remaining rows and columns that does not train.
        rounds: How many there are: N + 1, round 0 and N more.
        substeps: N_p, in how many parts a round removes its units.
        batches: Over how many importances are taken.
        result: What the model is when it is judged and in the end: `pruned`, the working copy (what is removed is 0 in
            the full model, which comes to the same), or `full`, with what was removed as it was last.
        restart: The learning rate begins anew with every round; otherwise Trainer's own curve stays.
    """

    prune: float = 0.17
    mask: float = 0.5
    rounds: int = 6
    substeps: int = 1
    batches: int = 10
    result: Literal["pruned", "full"] = "pruned"
    restart: bool = True
    name: ClassVar[str] = "recap"
    moves: ClassVar[bool] = True
    unit: ClassVar[Unit] = "row"
    observes: ClassVar[tuple[Signal, ...]] = ()
    optimizer_state: ClassVar[OptimizerState] = "keep"
    embeddings: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        for name, value, fits, remedy in (
            ("prune", self.prune, 0 <= self.prune <= MOST, f"give a share from 0 to {MOST}"),
            ("mask", self.mask, 0 <= self.mask < 1, "give a share from 0 to below 1"),
            ("rounds", self.rounds, self.rounds >= 1, "give 1 or more"),
            ("substeps", self.substeps, self.substeps >= 1, "give 1 or more"),
            ("batches", self.batches, self.batches >= 1, "give 1 or more"),
        ):
            if not fits:
                raise ConfigError(f"{name} is {value}", remedy, name)

    @property
    def idle(self) -> bool:
        """Whether nothing is pruned and nothing masked, which is full fine-tuning."""
        return self.prune == self.mask == 0

    @property
    def runs(self) -> float:
        """The share of the chosen layers' maps that is in the working copy."""
        return 1 - self.prune

    @property
    def trains(self) -> float:
        """The share of the working copy's rows and columns that trains."""
        return 1 - self.mask

    @property
    def looks(self) -> int:
        """How often some batches are looked at: in every round once a sub-step, and once for the mask."""
        return self.rounds * ((self.substeps if self.prune else 0) + (1 if self.mask else 0))

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner)
        check_own_weights(self.name, "prunes and trains the model's own weights", tuner)

    def check_model(self, layers: Sequence[LayerInfo]) -> None:
        for layer in layers:
            groups_of(layer.index, layer.parts)

    def check_runs(self, stack: LayerStack, layers: Sequence[int]) -> None:
        from wheretune.schedules.narrower import check_runs

        if self.prune:
            check_runs(stack, layers)

    def follow(
        self, stack: LayerStack, chosen: Sequence[int], parameters: Mapping[str, nn.Parameter], seed: int
    ) -> Scheduled:
        from wheretune.schedules.rounds import RoundsFollower

        return RoundsFollower(self, stack, chosen, parameters, seed)

    def expected(self, chosen: int) -> tuple[float, ...]:
        return (self.runs * self.trains,) * chosen

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        if steps < self.rounds:
            raise ConfigError(
                f"the schedule {self.name} has {self.rounds} rounds, and there are {steps} steps",
                "train for more steps (more epochs, smaller batches), or in fewer rounds",
                "schedule",
            )
        return first_state(layers, chosen, steps, seed)

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        return state

    def active(self, state: State, step: int) -> frozenset[int]:
        """All chosen layers: some rows and columns of each."""
        return frozenset(state["chosen"].tolist())

    def lowest(self, state: State, step: int) -> int:
        return 0

    def round(self, state: State, step: int) -> tuple[int, float]:
        """The round that a step is in, and which share of its steps lies ahead, this one included."""
        each, longer = divmod(int(state["steps"]), self.rounds)
        lengths = [each + (place < longer) for place in range(self.rounds)]
        ends = np.cumsum(lengths)
        place = min(int(np.searchsorted(ends, step, side="right")), self.rounds - 1)
        return place, (ends[place] - step) / lengths[place]


BERT = (12, 64, 3072)  # heads of a layer, their size, MLP units


def copy_of_bert(schedule: Recap, layers: int) -> dict[str, tuple[int, int]]:
    """How much of a BERT-base of so many layers a round takes: by what it is, how many are taken and of how many."""
    heads, size, width = BERT
    found: dict[str, tuple[int, int]] = {}
    for what, units, each in (("heads", heads, 4 * size), ("MLP units", width, 2)):
        every = layers * units
        runs = every - min(share_of(schedule.prune, every), layers * share_of(MOST, units))
        found[f"{what} that run"] = runs, every
        found[f"rows and columns of these {what} that train"] = (
            runs * each - share_of(schedule.mask, runs * each),
            runs * each,
        )
    return found
