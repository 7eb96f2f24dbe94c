"""*RECAP* (Ilhan et al., CVPR 2024): rounds in which a pruned and masked copy of the model trains, and is written back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wheretune.errors import ConfigError, ModelError
from wheretune.schedules.layers import check_layers, first_state

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.base import Spec
    from wheretune.records.model import LayerInfo, LayerParts
    from wheretune.schedules.base import OptimizerState, Scheduled, Signal, State, Unit

MOST = 0.85  # of the units of a layer that may be removed
ROUNDING = 1e-9  # .29 x 100 is a little below 29


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

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner)
        if tuner.name != "full":
            raise ConfigError(
                f"the schedule {self.name} prunes and trains the model's own weights, and {tuner.name} trains others",
                "take the tuner full, or another schedule",
                "schedule",
            )

    def check_model(self, layers: Sequence[LayerInfo]) -> None:
        for layer in layers:
            groups_of(layer.index, layer.parts)

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
        """The round that a step is in, and the share of that round's steps that still lie ahead, this one's included."""
        each, longer = divmod(int(state["steps"]), self.rounds)
        lengths = [each + (place < longer) for place in range(self.rounds)]
        ends = np.cumsum(lengths)
        place = min(int(np.searchsorted(ends, step, side="right")), self.rounds - 1)
        return place, (ends[place] - step) / lengths[place]


# --- what goes together in a layer ---------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Maps of a layer whose rows and columns go together.

    Attributes:
        layer: Which layer.
        kind: `attention` or `mlp`.
        units: How many heads (key-value heads, where several heads share them) or MLP units it has.
        rows: The maps that put the units out, by path below the layer.
        columns: The map that reads them.
        shapes: Of all these maps: path -> (outputs, inputs).
    """

    layer: int
    kind: Literal["attention", "mlp"]
    units: int
    rows: tuple[str, ...]
    columns: str
    shapes: Mapping[str, tuple[int, int]]

    def maps(self) -> Iterator[tuple[str, int, int]]:
        """Every map: its path, along which dimension it is cut, and how many rows or columns a unit has there."""
        for path in self.rows:
            yield path, 0, self.shapes[path][0] // self.units
        yield self.columns, 1, self.shapes[self.columns][1] // self.units


def groups_of(layer: int, parts: LayerParts) -> tuple[Group, Group]:
    """The attention and the MLP of a layer.

    Raises:
        ModelError: They are not made of linear maps of their own.
    """
    maps, apart = parts.maps, len({parts.query, parts.key, parts.value, parts.attention_output})
    if parts.key is None or parts.attention_output is None or parts.mlp_output is None or apart < 4:
        raise ModelError(
            f"layer {layer} has no maps of its own for queries, keys, values, their outcome and the MLP, of which "
            "recap removes rows and columns",
            "take another schedule",
            "schedule",
        )
    size = maps[parts.attention_output][1] // parts.heads
    attention = tuple(path for path in (parts.query, parts.key, parts.value) if path is not None)
    width = maps[parts.mlp_output][1]
    known = {*attention, parts.attention_output, parts.mlp_output}
    inner = tuple(path for path, (outputs, _) in maps.items() if outputs == width and path not in known)
    heads = maps[parts.key][0] // size
    if not inner or not heads or any(maps[path][0] % heads for path in attention):
        raise ModelError(
            f"layer {layer} has no linear maps whose rows are its MLP's units, or no whole heads",
            "take another schedule",
            "schedule",
        )
    return (
        Group(layer, "attention", heads, attention, parts.attention_output, maps),
        Group(layer, "mlp", width, inner, parts.mlp_output, maps),
    )


# --- what is chosen ------------------------------------------------------------------------------


def ratios(prune: float, substeps: int) -> list[float]:
    """rho_j = (r / N) / (1 - j r / N): the share of what is left that the j-th of N sub-steps removes, r in all."""
    return [prune / substeps / (1 - place * prune / substeps) for place in range(substeps)]


def share_of(share: float, units: int) -> int:
    """The floor of share x units."""
    return floor(share * units + ROUNDING)


def least(values: Sequence[NDArray[np.float64]], count: int, most: float = 1.0) -> list[NDArray[np.bool_]]:
    """Which `count` units of some layers have the lowest values, across the layers.

    Ties: the lower layer, then the lower unit is not among them.

    Args:
        values: By layer and unit.
        count: How many; fewer where no more may be taken.
        most: The share of a layer's units that may be among them.
    """
    found = [np.zeros(len(one), dtype=bool) for one in values]
    room = [share_of(most, len(one)) for one in values]
    layer = np.repeat(np.arange(len(values)), [len(one) for one in values])
    unit = np.concatenate([np.arange(len(one)) for one in values])
    for place in np.lexsort((-unit, -layer, np.concatenate(values))):
        if count == 0:
            break
        if room[layer[place]]:
            found[layer[place]][unit[place]] = True
            room[layer[place]] -= 1
            count -= 1
    return found


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
