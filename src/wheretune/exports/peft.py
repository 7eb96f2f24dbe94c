"""A plan as PEFT's adapter_config.json."""

from __future__ import annotations

import json
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
