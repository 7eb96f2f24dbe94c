"""A plan for Axolotl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.exports.base import as_yaml, low_rank, unfrozen, whole_alpha

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {
    "dora": {"peft_use_dora": True},
    "pissa": {"peft_init_lora_weights": "pissa"},
}


def axolotl(plan: Plan) -> str:
    """The plan as a piece of Axolotl's YAML.

    Raises:
        ConfigError: Axolotl cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None:
        return as_yaml(
            "For Axolotl: it trains what matches and freezes the rest.",
            {"base_model": plan.model.name, "unfrozen_parameters": unfrozen(plan, "Axolotl")},
        )
    content = {
        "base_model": plan.model.name,
        "adapter": "lora",
        "lora_r": tuner.r,
        "lora_alpha": whole_alpha(tuner, "Axolotl"),
        "lora_dropout": tuner.dropout,
        "lora_target_modules": plan.targets(tuner.targets),
    }
    return as_yaml("For Axolotl.", content | EXTRA.get(tuner.name, {}))
