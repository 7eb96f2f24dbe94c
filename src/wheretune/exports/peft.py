"""A plan as PEFT's adapter_config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.plan import Plan


def peft(plan: Plan) -> str:
    """An adapter_config.json."""
    return json.dumps(peft_config(plan).to_dict(), indent=2, sort_keys=True, default=sorted) + "\n"


def peft_config(plan: Plan) -> Any:
    """The PEFT config that does what the plan's own tuner does.

    Raises:
        ConfigError: The tuner is not PEFT's.
    """
    given = plan.tuner.params
    low_rank = {"r": given.get("r"), "lora_alpha": given.get("alpha"), "lora_dropout": given.get("dropout")}
    match plan.tuner.name:
        case "lora":
            return plan.to_peft("lora", given["targets"], **low_rank)
        case "dora":
            return plan.to_peft("lora", given["targets"], use_dora=True, **low_rank)
        case "pissa":
            low_rank["lora_alpha"] = given["alpha"] or given["r"]
            return plan.to_peft("lora", given["targets"], init_lora_weights="pissa", **low_rank)
        case "ia3":
            return plan.to_peft("ia3")
    raise ConfigError(f"PEFT has no config for the tuner {plan.tuner}", "plan with lora, dora, pissa or ia3")


def named_modules(plan: Plan, method: str, targets: str, options: Mapping[str, Any]) -> Any:
    """A PEFT config of any method, for the chosen layers, named module by module; see `Plan.to_peft`."""
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
        return known[method](target_modules=plan.targets(targets), **options)
    down = [f"{layer.path}.{layer.parts.mlp_output}" for layer in plan.layer_infos]
    scaled = [
        f"{one.path}.{path}" for one in plan.layer_infos for path in dict.fromkeys((one.parts.key, one.parts.value))
    ]
    return known[method](target_modules=scaled + down, feedforward_modules=down, **options)


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}
