"""A plan for TRL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheretune.exports.base import FREEZE, as_yaml, exactly, low_rank, unfrozen, whole_alpha

if TYPE_CHECKING:
    from wheretune.records.plan import Plan


def trl(plan: Plan) -> str:
    """The plan as a config of `trl sft`, or as the line that freezes the rest in a script of one's own.

    Raises:
        ConfigError: TRL cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None or tuner.name == "pissa":  # TRL's own config has no word for PiSSA
        return as_yaml(
            f"TRL's own scripts do not read this key. In a script of yours, before the SFTTrainer is made:\n{FREEZE}",
            {
                "model_name_or_path": plan.model.name,
                "unfrozen_parameters": exactly(unfrozen(plan, "TRL")),
            },
        )
    return as_yaml(
        "For `trl sft --config`. The modules are named in full, so no other layer is touched.",
        {
            "model_name_or_path": plan.model.name,
            "use_peft": True,
            "lora_r": tuner.r,
            "lora_alpha": whole_alpha(tuner, "TRL"),
            "lora_dropout": tuner.dropout,
            "use_dora": tuner.name == "dora",
            "lora_target_modules": plan.targets(tuner.targets),
        },
    )
