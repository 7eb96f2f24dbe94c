"""AdaLoRA through PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wheretune.errors import ConfigError
from wheretune.tuners.low_rank import check_rank, plain_alpha
from wheretune.tuners.peft import attach, map_names, map_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.steps import Training
    from wheretune.records.model import ModelInfo
    from wheretune.tuners.base import Attached


@dataclass(frozen=True)
class AdaLoRA:
    """LoRA as P diag(e) Q, whose smallest entries e are struck out as it trains (Zhang et al., ICLR 2023).

    Decided where the paper differs from set to set: ranks are shared out between a tenth and the last three tenths of
    the steps, every `every` steps. A follower shares the ranks out and penalises P and Q for not being orthogonal: a
    Trainer of your own needs `FollowerCallback(tuned.followers)`, which says how the penalty is added.

    Attributes:
        r: The mean rank at the end.
        start: The rank at the beginning; above r.
        alpha: Scales what is added.
        dropout: On the adapter's input.
        every: Steps between two looks at the ranks.
        orthogonality: Weight of the penalty.
        targets: As for LoRA.
    """

    r: int = 8
    start: int = 12
    alpha: float = 32.0
    dropout: float = 0.0
    every: int = 10
    orthogonality: float = 0.1
    targets: str = "attention"
    name: ClassVar[str] = "adalora"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 2e-3
    needs_every_step: ClassVar[bool] = True
    trains_embeddings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_rank(self.name, self.r, self.alpha, self.dropout)
        if self.start <= self.r or self.every < 1 or self.orthogonality < 0:
            raise ConfigError(
                f"adalora has start={self.start}, every={self.every} and orthogonality={self.orthogonality}",
                "give a start above r, 1 or more steps between looks, and a penalty of 0 or more",
            )

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in."""
        from peft import AdaLoraConfig

        config = AdaLoraConfig(
            target_modules=map_names(stack, layers, self.targets),
            init_r=self.start,
            target_r=self.r,
            lora_alpha=plain_alpha(self.alpha),
            lora_dropout=self.dropout,
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1,  # known when training begins
        )
        tuner, attached = attach(stack, config, seed)
        assert attached.save is not None
        write = attached.save

        def save(folder: Path, model: ModelInfo) -> None:
            pattern, config.rank_pattern = config.rank_pattern, None  # ranks that were struck out are kept, as zeros
            write(folder, model)
            config.rank_pattern = pattern

        return replace(attached, save=save, followers=(_SharingOut(tuner, config),))

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """Start (inputs + outputs + 1) a map: what is struck out is set to zero, and still counted."""
        return sum(self.start * (out + into + 1) for out, into in map_shapes(model.layers, layers, self.targets))


class _SharingOut:
    """Drives PEFT's allocation of ranks, and lets it go on after a stop."""

    name = "adalora"

    def __init__(self, tuner: Any, config: Any) -> None:
        self._tuner, self._config = tuner, config

    def begin(self, training: Training) -> None:
        steps = training.steps
        if steps < 2:
            raise ConfigError("adalora cannot share out ranks in one step", "train for more steps")
        self._config.total_step, self._config.tinit, self._config.tfinal = steps, steps // 10, 3 * steps // 10

    def before_step(self, step: int) -> None:
        pass

    def penalty(self) -> Tensor:
        """Mean Frobenius norm of P^T P - I and Q Q^T - I, as PEFT computes it, times its weight."""
        import torch

        factors = [(n, p) for n, p in self._tuner.model.named_parameters() if "lora_A." in n or "lora_B." in n]
        norms = []
        for name, factor in factors:
            square = factor @ factor.T if "lora_A." in name else factor.T @ factor
            norms.append(torch.linalg.norm(square - torch.eye(len(square), device=square.device)))
        mean: Tensor = torch.stack(norms).mean()
        return float(self._config.orth_reg_weight) * mean

    def after_step(self, step: int) -> None:
        self._tuner.update_and_allocate(step + 1)  # PEFT counts steps from 1

    def end(self) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        import torch

        ranks = self._tuner.rankallocator
        kept = {"mean": ranks.exp_avg_ipt, "spread": ranks.exp_avg_unc}
        state = {f"{kind}/{name}": value for kind, values in kept.items() for name, value in values.items()}
        pattern = self._config.rank_pattern or {}
        return state | {f"ranks/{name}": torch.tensor(ranks) for name, ranks in pattern.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        ranks, device = self._tuner.rankallocator, next(self._tuner.model.parameters()).device
        state = {name: value.to(device) for name, value in state.items()}
        ranks.exp_avg_ipt = {n.removeprefix("mean/"): v for n, v in state.items() if n.startswith("mean/")}
        ranks.exp_avg_unc = {n.removeprefix("spread/"): v for n, v in state.items() if n.startswith("spread/")}
        ranks.ipt = dict(ranks.exp_avg_ipt)  # read for its names alone
        pattern = {n.removeprefix("ranks/"): v.tolist() for n, v in state.items() if n.startswith("ranks/")}
        self._config.rank_pattern = pattern or None
