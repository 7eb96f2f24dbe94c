"""A plan as PEFT's adapter_config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.exports.base import low_rank
from wheretune.tuners.low_rank import plain_alpha

if TYPE_CHECKING:
    from wheretune.records.model import LayerInfo
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"init_lora_weights": "pissa"}}


def peft(plan: Plan) -> str:
    """An adapter_config.json.

    Raises:
        ConfigError: The plan's tuner is not PEFT's.
    """
    return json.dumps(peft_config(plan).to_dict(), indent=2, sort_keys=True, default=sorted) + "\n"


def peft_config(plan: Plan) -> Any:
    """The PEFT config that does what the plan's own tuner does.

    Raises:
        ConfigError: The tuner is not PEFT's.
    """
    tuner = low_rank(plan)
    if tuner is not None:
        alpha = plain_alpha(tuner.alpha or tuner.r)
        options = {"r": tuner.r, "lora_alpha": alpha, "lora_dropout": tuner.dropout, **EXTRA.get(tuner.name, {})}
        return plan.to_peft("lora", tuner.targets, **options)
    if plan.tuner.name == "ia3":
        return plan.to_peft("ia3")
    raise ConfigError(f"PEFT has no config for the tuner {plan.tuner}", "plan with lora, dora, pissa or ia3")


def named_modules(plan: Plan, method: str, targets: str, options: Mapping[str, Any]) -> Any:
    """A PEFT config of any method, for the chosen layers, named module by module; see `Plan.to_peft`.

    Raises:
        ConfigError: PEFT has no such method, it is not put on modules, it does not know an option, or the layers lack
            the maps that it is put on.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    known: dict[str, Any] = {name: config for name, config in configs.items() if "target_modules" in _fields(config)}
    if method not in known:
        raise ConfigError(f"PEFT puts no {method!r} on modules", f"known are {', '.join(sorted(known))}")
    unknown = sorted(set(options) - _fields(known[method]))
    if unknown:
        raise ConfigError(f"PEFT's {method} has no option {unknown[0]!r}", "see PEFT's reference")
    if not plan.layers:
        raise ConfigError("the plan names no layers", "plan with another tuner than head-only")
    if method != "ia3":
        return known[method](**_targets(plan, method, targets, _fields(known[method])), **options)
    maps = [_ia3_maps(layer) for layer in plan.layer_infos]
    down = [output for _, output in maps]
    return known[method](
        target_modules=[path for scaled, _ in maps for path in scaled] + down, feedforward_modules=down, **options
    )


def _targets(plan: Plan, method: str, targets: str, fields: set[str]) -> dict[str, list[str]]:
    """What a config of so many fields adapts: maps by module and, where `targets` names some, experts by parameter."""
    experts = plan.expert_targets(targets)
    if not experts:
        return {"target_modules": plan.targets(targets)}
    if "target_parameters" not in fields:
        raise ConfigError(f"PEFT's {method} adapts no experts", "take lora")
    maps = [f"{layer.path}.{path}" for layer in plan.layer_infos for path in layer.parts.targets(targets)]
    return {"target_modules": maps, "target_parameters": experts}


def _ia3_maps(layer: LayerInfo) -> tuple[list[str], str]:
    """The maps of a layer whose outputs IA3 scales (keys and values), and the one whose inputs it scales."""
    parts = layer.parts
    if parts.key is None or parts.value is None or parts.mlp_output is None:
        raise ConfigError(f"layer {layer.index} has no key, value and MLP output maps", "plan with lora and targets")
    scaled = dict.fromkeys((parts.key, parts.value))
    return [f"{layer.path}.{path}" for path in scaled], f"{layer.path}.{parts.mlp_output}"


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
