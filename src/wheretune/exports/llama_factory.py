"""A plan for LLaMA-Factory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.exports.base import LOW_RANK, as_yaml

if TYPE_CHECKING:
    from wheretune.records.plan import Plan


def llama_factory(plan: Plan) -> str:
    """The plan as LLaMA-Factory reads it."""
    if plan.tuner.name in LOW_RANK:
        content: dict[str, Any] = {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "lora",
            "lora_rank": plan.tuner.params["r"],
            "lora_alpha": int(plan.tuner.params["alpha"] or plan.tuner.params["r"]),
            "lora_dropout": plan.tuner.params["dropout"],
            "lora_target": ",".join(plan.targets(plan.tuner.params["targets"])),
        }
        extra: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"pissa_init": True, "pissa_iter": -1}}
        return as_yaml("For LLaMA-Factory.", content | extra.get(plan.tuner.name, {}))
    if plan.tuner.name != "full":
        raise ConfigError(
            f"LLaMA-Factory cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora"
        )
    k, layers = len(plan.layers), plan.model.layers
    if plan.layers == tuple(range(layers - k, layers)):
        number = k
    elif plan.layers == tuple(range(k)):
        number = -k
    else:
        raise ConfigError(
            f"LLaMA-Factory can train the first or the last layers only, not {', '.join(map(str, plan.layers))}",
            "export to axolotl, or plan with --tuner lora, which it can put on any layers",
        )
    return as_yaml(
        "For LLaMA-Factory: the last layers (below zero: the first).",
        {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "freeze",
            "freeze_trainable_layers": number,
            "freeze_trainable_modules": "all",
        },
    )
