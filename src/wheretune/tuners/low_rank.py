"""LoRA and its kin through PEFT, on the chosen layers' maps named one by one.

PEFT is given full module names, never a pattern: its own way of finding layers by pattern also hits a vision tower.
What is saved is a plain PEFT checkpoint of the headless base model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wheretune.errors import ConfigError, ModelError
from wheretune.tuners.peft import adapter_state, attach, expert_names, map_names, map_shapes, write_adapter

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo
    from wheretune.tuners.base import Attached


def check_rank(name: str, r: int, alpha: float, dropout: float) -> None:
    """Refuses ranks, scales and dropouts that make no adapter."""
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ConfigError(
            f"{name} has rank {r}, alpha {alpha} and dropout {dropout}",
            "give a rank of 1 or more, alpha above 0 and dropout from 0 to below 1",
        )


@dataclass(frozen=True)
class LowRank(ABC):
    """What LoRA and its kin are set by.

    Attributes:
        r: The rank; 16 as in P and T.
        alpha: Scales what is added; 32 as in P and T.
        dropout: On the adapter's input.
        targets: `attention` (query and value, as in the papers), `all-linear`, names of maps with + or commas between
            them, or for LoRA `experts`.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "attention"
    name: ClassVar[str]
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 1e-3
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    @abstractmethod
    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached: ...

    @abstractmethod
    def count(self, model: ModelInfo, layers: Sequence[int]) -> int: ...


@dataclass(frozen=True)
class LoRA(LowRank):
    """W + alpha / r B A, with B at zero: LoRA (Hu et al., ICLR 2022)."""

    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        check_rank(self.name, self.r, self.alpha, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in.

        Raises:
            ConfigError: Experts are adapted with dropout, which PEFT cannot do.
        """
        names = map_names(stack, layers, self.targets, experts=True)
        experts = expert_names(stack, layers, self.targets)
        if experts and self.dropout:
            raise ConfigError("lora cannot drop out before experts", "leave the dropout out, or name other targets")
        return attach(stack, _config(self, names, experts=experts), seed)[1]

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """R (inputs + outputs) a map, and as much for every expert of one."""
        every = [model.layers[layer].parts for layer in layers]
        maps = sum(self.r * (out + into) for out, into in map_shapes(model.layers, layers, self.targets))
        experts = [parts.experts[path] for parts in every for path in parts.expert_targets(self.targets)]
        return maps + sum(self.r * number * (rows + columns) for number, rows, columns in experts)


@dataclass(frozen=True)
class DoRA(LowRank):
    """LoRA whose sum with W is normed column by column and given a trained length: DoRA (Liu et al., ICML 2024)."""

    name: ClassVar[str] = "dora"

    def __post_init__(self) -> None:
        check_rank(self.name, self.r, self.alpha, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in."""
        return attach(stack, _config(self, map_names(stack, layers, self.targets), use_dora=True), seed)[1]

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """R (inputs + outputs) + outputs a map."""
        return sum(self.r * (out + into) + out for out, into in map_shapes(model.layers, layers, self.targets))


@dataclass(frozen=True)
class PiSSA(LowRank):
    """LoRA that starts as the r largest singular triplets of W, which keeps the rest (Meng et al., NeurIPS 2024).

    While it trains the chosen maps hold the rest of W; `undo` gives W back. It is saved as the LoRA of rank 2 r, with
    plain names and the original W, that does the same: B A - B0 A0. The rank is no more than a map has rows or columns.

    Attributes:
        alpha: Scales the adapter; r in the paper, so that scaling is 1, and likewise where 0 is given.
    """

    alpha: float = 0.0
    name: ClassVar[str] = "pissa"

    def __post_init__(self) -> None:
        check_rank(self.name, self.r, self.alpha or self.r, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT take the maps apart.

        Raises:
            ConfigError: A map has fewer rows or columns than r.
            ModelError: The maps are quantised.
        """
        import torch

        every = [stack.layers[layer].parts for layer in layers]
        self._check([parts.maps[path] for parts in every for path in parts.targets(self.targets)])
        names = map_names(stack, layers, self.targets)
        weights: list[Any] = [stack.base.get_submodule(name).weight for name in names]
        if not all(weight.is_floating_point() for weight in weights):
            raise ModelError("pissa takes weights apart, and these are quantised", "take lora, or leave --quantize out")
        _, attached = attach(stack, _config(self, names, init_lora_weights="pissa"), seed)
        first = {name: value.detach().clone() for name, value in adapter_state(stack.base).items()}

        def save(folder: Path, model: ModelInfo) -> None:
            now = adapter_state(stack.base)
            both = {
                name: torch.cat([now[name], first[name]], dim=0)
                if ".lora_A." in name
                else torch.cat([now[name], -first[name]], dim=1)
                for name in now
            }
            plain = LoRA(2 * self.r, 2 * (self.alpha or self.r), self.dropout)  # the scaling alpha / r stays
            write_adapter(folder, _config(plain, names), both, model)

        return replace(attached, save=save)

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """R (inputs + outputs) a map."""
        maps = map_shapes(model.layers, layers, self.targets)
        self._check(maps)
        return sum(self.r * (out + into) for out, into in maps)

    def _check(self, maps: Sequence[tuple[int, int]]) -> None:
        least = min((min(shape) for shape in maps), default=self.r)
        if self.r > least:
            raise ConfigError(f"pissa has rank {self.r}", f"give at most {least}, the rank of the least map")


def _config(
    tuner: LowRank,
    names: list[str],
    *,
    experts: Sequence[str] = (),
    use_dora: bool = False,
    init_lora_weights: Any = True,
) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        target_modules=names,
        target_parameters=list(experts) or None,
        r=tuner.r,
        lora_alpha=plain_alpha(tuner.alpha or tuner.r),
        lora_dropout=tuner.dropout,
        use_dora=use_dora,
        init_lora_weights=init_lora_weights,
    )


def plain_alpha(alpha: float) -> Any:
    """PEFT's alpha is a whole number, and so it is written where it can be."""
    return int(alpha) if alpha == int(alpha) else alpha
