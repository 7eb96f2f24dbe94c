"""What to tune: one choice on every axis, for one model."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group
from rich.jupyter import JupyterMixin

from wheretune.errors import ConfigError
from wheretune.records.base import Spec, record
from wheretune.records.cost import Cost
from wheretune.records.model import ModelInfo
from wheretune.records.scores import Confidence, LayerScore
from wheretune.show.tables import table
from wheretune.support.words import count


@record
class Plan(JupyterMixin):
    """What to tune: one choice on every axis, for one model.

    Attributes:
        layers: The chosen layers, counted from 0, ascending.
        selector: How they were chosen.
        tuner: How they are tuned.
        head: What sits on top.
        schedule: When they train.
        model: The model the plan was made for.
        scores_digest: `LayerScores.digest` of the scores it was made from.
        cost: The estimate.
        confidence: How sure the choice is; None where nothing was sampled, or the selector reads no scores.
        reason: What an adaptive selector went by, with its numbers.
        chosen: The layers as they were scored, with their paths and maps.
        scorer: What scored them.
    """

    layers: tuple[int, ...]
    selector: Spec
    tuner: Spec
    head: Spec
    schedule: Spec
    model: ModelInfo
    scores_digest: str
    cost: Cost
    confidence: Confidence | None = None
    reason: str | None = None
    chosen: tuple[LayerScore, ...] = ()
    scorer: Spec | None = None

    def targets(self, wanted: str = "attention") -> list[str]:
        """Full names, below the headless model, of the linear maps of the chosen layers that `wanted` means.

        Raises:
            ConfigError: A name fits no map; see `LayerParts.targets`.
        """
        return [f"{layer.path}.{path}" for layer in self.chosen for path in layer.parts.targets(wanted)]

    def to_peft(self, method: str = "lora", targets: str = "attention", **options: Any) -> Any:
        """A PEFT config for the chosen layers, which it names module by module; layers it does not name stay alone.

        Args:
            method: Any PEFT method that is put on named modules: `lora`, `ia3`, `loha`, `oft`, `vera` ...
            targets: `attention`, `all-linear` or names of maps; IA3 has its own.
            options: The config's other fields, such as `r=8` or `task_type="SEQ_CLS"`.

        Raises:
            ConfigError: PEFT has no such method, it is not put on modules, or it does not know an option.
        """
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        known: dict[str, Any] = {
            name: config for name, config in configs.items() if "target_modules" in _fields(config)
        }
        if method not in known:
            raise ConfigError(f"PEFT puts no {method!r} on modules", f"known are {', '.join(sorted(known))}")
        unknown = sorted(set(options) - _fields(known[method]))
        if unknown:
            raise ConfigError(f"PEFT's {method} has no option {unknown[0]!r}", "see PEFT's reference")
        if not self.chosen:
            raise ConfigError("the plan names no layers", "make it with this version of wheretune")
        if method != "ia3":
            return known[method](target_modules=self.targets(targets), **options)
        down = [f"{layer.path}.{layer.parts.mlp_output}" for layer in self.chosen]
        scaled = [
            f"{one.path}.{path}" for one in self.chosen for path in dict.fromkeys((one.parts.key, one.parts.value))
        ]
        return known[method](target_modules=scaled + down, feedforward_modules=down, **options)

    def __rich__(self) -> Group:
        share = self.cost.trainable_parameters / self.cost.total_parameters
        rows = [
            ("layers", ", ".join(map(str, self.layers)) or "none"),
            ("of", str(self.model)),
            ("chosen by", str(self.selector)),
            *([("because", self.reason)] if self.reason is not None else []),
            *([("how sure", str(self.confidence))] if self.confidence is not None else []),
            ("tuner", str(self.tuner)),
            ("head", str(self.head)),
            ("schedule", str(self.schedule)),
            ("trainable", f"{count(self.cost.trainable_parameters)} parameters ({share:.1%})"),
            ("expected", str(self.cost)),
        ]
        return Group(table("plan", ("", "choice"), rows, left=("", "choice")))

    def __repr__(self) -> str:
        return f"Plan(layers={list(self.layers)}, tuner={self.tuner}, head={self.head})"


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
