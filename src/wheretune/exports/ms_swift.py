"""A plan for ms-swift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.exports.base import as_yaml, exactly, low_rank, unfrozen
from wheretune.tuners.low_rank import plain_alpha

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"init_weights": "pissa"}}


def ms_swift(plan: Plan) -> str:
    """The plan as a piece of ms-swift's YAML.

    Raises:
        ConfigError: ms-swift cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None:
        return as_yaml(
            "For `swift sft CONFIG`: everything is frozen, then what matches is thawed.",
            {
                "model": plan.model.name,
                "tuner_type": "full",
                "freeze_parameters_ratio": 1.0,
                "trainable_parameters_regex": "|".join(exactly(unfrozen(plan, "ms-swift"))),
            },
        )
    content = {
        "model": plan.model.name,
        "tuner_type": "lora",
        "lora_rank": tuner.r,
        "lora_alpha": plain_alpha(tuner.alpha or tuner.r),
        "lora_dropout": tuner.dropout,
        "target_modules": plan.targets(tuner.targets),
    }
    return as_yaml("For `swift sft CONFIG`.", content | EXTRA.get(tuner.name, {}))
