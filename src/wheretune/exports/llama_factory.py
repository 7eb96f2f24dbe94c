"""A plan for LLaMA-Factory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.exports.base import as_yaml, low_rank, whole_alpha

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"pissa_init": True, "pissa_iter": -1}}


def llama_factory(plan: Plan) -> str:
    """The plan as a piece of LLaMA-Factory's YAML.

    Raises:
        ConfigError: LLaMA-Factory cannot train with the plan's tuner, or not these layers with it.
    """
    tuner = low_rank(plan)
    if tuner is not None:
        content = {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "lora",
            "lora_rank": tuner.r,
            "lora_alpha": whole_alpha(tuner, "LLaMA-Factory"),
            "lora_dropout": tuner.dropout,
            "lora_target": ",".join(plan.targets(tuner.targets)),
        }
        return as_yaml("For LLaMA-Factory.", content | EXTRA.get(tuner.name, {}))
    if plan.tuner.name != "full":
        raise ConfigError(
            f"LLaMA-Factory cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora"
        )
    return as_yaml(
        "For LLaMA-Factory: the last layers (below zero: the first).",
        {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "freeze",
            "freeze_trainable_layers": _number_of_layers(plan),
            "freeze_trainable_modules": "all",
        },
    )


def _number_of_layers(plan: Plan) -> int:
    """How many of the last layers train; below zero, how many of the first."""
    k, layers = len(plan.layers), len(plan.model)
    if plan.layers == tuple(range(layers - k, layers)):
        return k
    if plan.layers == tuple(range(k)):
        return -k
    raise ConfigError(
        f"LLaMA-Factory can train the first or the last layers only, not {', '.join(map(str, plan.layers))}",
        "export to axolotl, or plan with the tuner lora, which LLaMA-Factory can put on any layers",
    )
