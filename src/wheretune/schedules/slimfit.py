"""*SlimFit* (Ardakani et al.): the tensors that changed least in their last step freeze for the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from wheretune.errors import ConfigError
from wheretune.schedules.draws import LARGEST, key
from wheretune.schedules.layers import check_layers, check_own_weights

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.schedules.base import OptimizerState, Signal, State, Unit

HIGHEST = 1e10  # of the values before the first step, above any change: so every tensor trains once first


@dataclass(frozen=True)
class SlimFit:
    """SlimFit: in every step the share `freeze` of the tensors is frozen, those with the lowest value.

    A unit is a tensor. Ranked are all with two or more dimensions (embeddings, pooler and head too) and the scales of
    norms; biases, those of norms included, always train, so backward always reaches the embeddings and no prefix is
    frozen. With n tensors int(freeze * n) are frozen. The value of a tensor that trained in a step is the mean over its
    elements of |(w_new - w_old) / w_old|, the real change; the others keep theirs. Before the first step it is
    1e10 * uniform(0, 1), so that the first steps visit every tensor.

    As the authors' code has it. Decided: elements with w_old = 0 are left out (0 / 0 would rank last for ever), and a
    tensor of zeros alone is an error; ties: the lower number trains; the uniform draws are keys of (slimfit, seed,
    number). What is frozen is so for good reason: no momentum and no decay moves it, though its moments and step count
    are kept. (The zeroed gradients of the torch of 2022 let frozen tensors move on.) The paper's quantised activations
    approximate gradients and choose no tensor, and are left out, so less memory is saved here.

    Attributes:
        freeze: F, the share of the tensors that is frozen. 0 is full fine-tuning. The GLUE scripts take .80 to .95.
    """

    freeze: float = 0.9
    name: ClassVar[str] = "slimfit"
    moves: ClassVar[bool] = True
    unit: ClassVar[Unit] = "tensor"
    observes: ClassVar[tuple[Signal, ...]] = ("change",)
    optimizer_state: ClassVar[OptimizerState] = "keep"
    embeddings: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        if not 0 <= self.freeze < 1:
            raise ConfigError(f"freeze is {self.freeze}", "give a share from 0 to below 1", "freeze")

    def check(self, chosen: int, tuner: Spec) -> None:
        check_layers(self.name, chosen, tuner)
        check_own_weights(self.name, "ranks the model's own weights", tuner)

    def expected(self, chosen: int) -> tuple[float, ...]:
        return (1 - self.freeze,) * chosen

    def init(
        self, layers: int, chosen: Sequence[int], tensors: Mapping[str, tuple[int, ...]], steps: int, seed: int
    ) -> State:
        ranked = [unit for unit, (name, shape) in enumerate(tensors.items()) if len(shape) > 1 or is_scale(name)]
        draws = [key(self.name, seed, place) / LARGEST for place in range(len(ranked))]
        return {
            "ranked": np.array(ranked, dtype=np.int64),
            "always": np.array(sorted(set(range(len(tensors))) - set(ranked)), dtype=np.int64),
            "values": HIGHEST * np.array(draws, dtype=np.float64),
        }

    def observe(self, state: State, signals: Mapping[Signal, Mapping[int, float]]) -> State:
        changes, values = signals["change"], state["values"].copy()
        for place in self._trained(state):
            unit = int(state["ranked"][place])
            if unit not in changes:
                raise ConfigError(
                    f"tensor {unit} of those that may train held nothing but zeros, and {self.name} goes by the share "
                    "that a weight changes by",
                    "take another schedule",
                    "schedule",
                )
            values[place] = changes[unit]
        return {**state, "values": values}

    def active(self, state: State, step: int) -> frozenset[int]:
        return frozenset(state["always"].tolist()) | {int(state["ranked"][place]) for place in self._trained(state)}

    def lowest(self, state: State, step: int) -> int:
        return 0

    def _trained(self, state: State) -> list[int]:
        """The places, among the ranked tensors, of those that train next."""
        values = state["values"]
        upwards = sorted(range(len(values)), key=lambda place: (values[place], -place))
        return sorted(upwards[int(self.freeze * len(values)) :])


def is_scale(name: str) -> bool:
    """Whether a tensor of one dimension is a norm's scale and not a bias, as Hugging Face's models name them."""
    return not name.endswith("bias")


def bert_tensors(layers: int) -> dict[str, tuple[int, ...]]:
    """The ranked tensors of a BERT of so many layers with pooler and classifier: 102 of 12; sizes do not matter."""
    embeddings = [*(f"embeddings.{name}_embeddings" for name in ("word", "position", "token_type")), "embeddings.norm"]
    parts = (
        "attention.query", "attention.key", "attention.value", "attention.output", "attention.norm", "mlp.intermediate",
        "mlp.output", "mlp.norm",
    )  # fmt: skip
    inside = [f"layer.{layer}.{part}" for layer in range(layers) for part in parts]
    return {f"{name}.weight": (1, 1) for name in (*embeddings, *inside, "pooler", "classifier")}
