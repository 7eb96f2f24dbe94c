"""*LISA* (Pan et al.): every few steps a fresh draw of a few layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wheretune.errors import ConfigError
from wheretune.schedules.draws import key
from wheretune.schedules.layers import check_layers, first_state

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import OptimizerState, Signal, State, Unit


@dataclass(frozen=True)
class Lisa:
    """LISA: every `every` steps, step 0 included, `layers` of the chosen layers are drawn, and they alone train.

    As the authors' code (LMFlow) has it: uniform, without replacement within a draw, each draw independent of those
    before; no importance weights. Everything outside the layers trains at every step. Decided: draw i = step // every
    takes the layers with the smallest blake2b key of (lisa, seed, i, layer), so that it hangs on no generator and a
    stopped run goes on exactly.

    Attributes:
        layers: gamma, how many train at a time. All of them is full fine-tuning.
        every: K, the steps between draws.
        train_embeddings: With whole layers the embeddings and the final norm train too, as in the paper. They can be
            most of what trains: 80 % in SmolLM2-135M with two layers.
        state: Of the optimizer. LMFlow keeps that of every layer ever drawn, so memory grows and moments go stale; we
            `drop` that of layers that leave. `drop-all` starts every interval as a training of its own, as the authors
            say the paper's runs did.
    """

    layers: int = 2
    every: int = 20
    train_embeddings: bool = True
    state: Literal["keep", "drop", "drop-all"] = "drop"
    name: ClassVar[str] = "lisa"
    moves: ClassVar[bool] = True
    unit: ClassVar[Unit] = "layer"
    observes: ClassVar[tuple[Signal, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "give 1 or more", name)

    @property
    def embeddings(self) -> bool:
        """As asked."""
        return self.train_embeddings

    @property
    def optimizer_state(self) -> OptimizerState:
        return self.state

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner, self.layers)

    def expected(self, chosen: int) -> tuple[float, ...]:
        return (self.layers / chosen,) * chosen

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        return first_state(layers, chosen, steps, seed)

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        return state

    def active(self, state: State, step: int) -> frozenset[int]:
        seed, draw = int(state["seed"]), step // self.every
        by_key = sorted(state["chosen"].tolist(), key=lambda layer: key("lisa", seed, draw, layer))
        return frozenset(by_key[: self.layers])

    def lowest(self, state: State, step: int) -> int:
        return min(self.active(state, step))
