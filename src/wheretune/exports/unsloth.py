"""A plan for Unsloth, which has no config files: lines of a script."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wheretune.exports.base import FREEZE, exactly, low_rank, unfrozen
from wheretune.tuners.low_rank import plain_alpha

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"init_lora_weights": "pissa"}}


def unsloth(plan: Plan) -> str:
    """The plan as the lines of a script that make the model.

    Raises:
        ConfigError: Unsloth cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None:
        return _script(plan, full_finetuning=True) + (
            "# What matches trains, the rest is frozen. Then make the trainer.\n"
            f"unfrozen_parameters = {json.dumps(exactly(unfrozen(plan, 'Unsloth')), indent=4)}\n{FREEZE}\n"
        )
    given = {
        "r": tuner.r,
        "lora_alpha": plain_alpha(tuner.alpha or tuner.r),
        "lora_dropout": tuner.dropout,
        "target_modules": plan.targets(tuner.targets),  # in full, so that no other layer is touched
        **EXTRA.get(tuner.name, {}),
    }
    lines = "".join(f"    {name}={value!r},\n" for name, value in given.items())
    return _script(plan, load_in_4bit=False) + f"model = FastLanguageModel.get_peft_model(\n    model,\n{lines})\n"


def _script(plan: Plan, **options: Any) -> str:
    """The lines that open the plan's model."""
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return (
        "# For Unsloth; load_in_4bit, max_seq_length and so on are yours to say.\n"
        "from unsloth import FastLanguageModel\n\n"
        f"model, tokenizer = FastLanguageModel.from_pretrained({plan.model.name!r}{given})\n"
    )
