"""A plan for TRL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheretune.exports.axolotl import unfrozen
from wheretune.exports.base import as_yaml

if TYPE_CHECKING:
    from wheretune.records.plan import Plan


def trl(plan: Plan) -> str:
    """The plan as TRL reads it."""
    if plan.tuner.name in ("lora", "dora"):
        return as_yaml(
            "For `trl sft --config`. The modules are named in full, so no other layer is touched.",
            {
                "model_name_or_path": plan.model.name,
                "use_peft": True,
                "lora_r": plan.tuner.params["r"],
                "lora_alpha": int(plan.tuner.params["alpha"]),
                "lora_dropout": plan.tuner.params["dropout"],
                "use_dora": plan.tuner.name == "dora",
                "lora_target_modules": plan.targets(plan.tuner.params["targets"]),
            },
        )
    return as_yaml(
        "TRL's own scripts do not read this key. In a script of yours, before the SFTTrainer is made:\n"
        "for name, p in model.named_parameters():\n"
        "    p.requires_grad = any(re.match(u, name) for u in unfrozen_parameters)",
        {"model_name_or_path": plan.model.name, "unfrozen_parameters": unfrozen(plan, "TRL")},
    )
