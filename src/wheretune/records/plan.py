"""What to tune: one choice on every axis, for one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from wheretune.errors import ConfigError
from wheretune.records.base import Shown, Spec, from_json, peft_config, read_json, record, require
from wheretune.records.cost import Cost
from wheretune.records.model import LayerInfo, ModelInfo
from wheretune.records.scores import Confidence, LayerScore


@record
class Plan(Shown):
    """What to tune.

    Attributes:
        layers: The chosen layers, counted from 0, ascending.
        selector: How they were chosen.
        tuner: How they are tuned.
        head: What sits on top.
        schedule: When they train.
        model: The model the plan was made for.
        cost: The estimate.
        scorer: What scored the layers; None where nothing was scored.
        scores_digest: `LayerScores.digest` of the scores it was made from; None where there were none.
        chosen: The chosen layers' scores; none where nothing was scored.
        confidence: How sure the choice is; None where nothing was sampled, or the selector reads no scores.
        reason: What an adaptive selector went by, with its numbers.
        format: The version of this layout.
    """

    layers: tuple[int, ...]
    selector: Spec
    tuner: Spec
    head: Spec
    schedule: Spec
    model: ModelInfo
    cost: Cost
    scorer: Spec | None = None
    scores_digest: str | None = None
    chosen: tuple[LayerScore, ...] = ()
    confidence: Confidence | None = None
    reason: str | None = None
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        require(list(self.layers) == sorted(set(self.layers)), "the chosen layers are not ascending")
        require(all(0 <= layer < len(self.model) for layer in self.layers), "a layer is chosen that is not there")
        scored = tuple(one.index for one in self.chosen)
        require(scored in ((), self.layers), "the chosen layers and their scores differ")
        fits = self.confidence is None or len(self.confidence.layers) == len(self.model)
        require(fits, f"its confidence is not of {len(self.model)} layers")

    @property
    def layer_infos(self) -> tuple[LayerInfo, ...]:
        """The chosen layers: their paths, sizes and parts."""
        return tuple(self.model.layers[layer] for layer in self.layers)

    def targets(self, wanted: str = "attention") -> list[str]:
        """Full names, below the headless model, of the linear maps of the chosen layers that `wanted` means.

        Raises:
            ConfigError: A name fits no map (see `LayerParts.targets`), or fits experts, which are no linear maps.
        """
        if self.expert_targets(wanted):
            raise ConfigError(f"targets={wanted} name experts, which only PEFT's own config can say", "export to peft")
        return [f"{layer.path}.{path}" for layer in self.layer_infos for path in layer.parts.targets(wanted)]

    def expert_targets(self, wanted: str) -> list[str]:
        """Full names, likewise, of the experts' parameters that `wanted` means."""
        return [f"{layer.path}.{path}" for layer in self.layer_infos for path in layer.parts.expert_targets(wanted)]

    def to_peft(self, method: str = "lora", targets: str = "attention", **options: Any) -> Any:
        """A PEFT config for the chosen layers, which it names module by module; layers it does not name stay alone.

        Args:
            method: Any PEFT method that is put on named modules: `lora`, `ia3`, `loha`, `oft`, `vera` ...
            targets: `attention`, `all-linear` or names of maps; IA3 has its own.
            options: The config's other fields, such as `r=8` or `task_type="SEQ_CLS"`.

        Raises:
            ConfigError: PEFT has no such method, it is not put on modules, or it does not know an option.
        """
        return peft_config(self, method, targets, options)

    def __repr__(self) -> str:
        return f"Plan(layers={list(self.layers)}, tuner={self.tuner}, head={self.head})"


def load_plan(path: str | Path) -> Plan:
    """Reads a plan that `save` wrote.

    Raises:
        ConfigError: There is no such file, it holds no plan, or wheretune 0.1.0 wrote it.
    """
    content = read_json(path)
    if isinstance(content, dict) and "scores_digest" in content and "format" not in content:
        raise ConfigError(
            f"{path} is a plan of wheretune 0.1.0, which named no layers but the chosen ones",
            "make it again with wheretune plan; scores of 0.1.0 still open",
        )
    return from_json(Plan, content, str(path))
