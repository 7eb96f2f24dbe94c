"""A plan for Axolotl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.exports.base import LOW_RANK, as_yaml

if TYPE_CHECKING:
    from wheretune.records.plan import Plan


def axolotl(plan: Plan) -> str:
    """The plan as Axolotl reads it."""
    if plan.tuner.name in LOW_RANK:
        content: dict[str, Any] = {
            "base_model": plan.model.name,
            "adapter": "lora",
            "lora_r": plan.tuner.params["r"],
            "lora_alpha": int(plan.tuner.params["alpha"] or plan.tuner.params["r"]),
            "lora_dropout": plan.tuner.params["dropout"],
            "lora_target_modules": plan.targets(plan.tuner.params["targets"]),
        }
        extra: dict[str, dict[str, Any]] = {
            "dora": {"peft_use_dora": True},
            "pissa": {"peft_init_lora_weights": "pissa"},
        }
        return as_yaml("For Axolotl.", content | extra.get(plan.tuner.name, {}))
    return as_yaml(
        "For Axolotl: it trains what matches and freezes the rest.",
        {"base_model": plan.model.name, "unfrozen_parameters": unfrozen(plan, "Axolotl")},
    )


def unfrozen(plan: Plan, tool: str) -> list[str]:
    """Patterns for `re.match` on the parameters' names in the model with its language-modelling head.

    Axolotl escapes every dot itself, so a pattern must do without dots that mean any character.
    """
    end = {"full": "", "bias": "[a-zA-Z0-9_.]*bias$"}.get(plan.tuner.name)
    if end is None:
        raise ConfigError(f"{tool} cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora")
    prefix = f"{plan.model.prefix}." if plan.model.prefix else ""
    if plan.tuner.params.get("embeddings"):
        raise ConfigError("this plan trains everything, and needs no export", f"fine-tune the whole model in {tool}")
    return [f"^{prefix}{layer.path}.{end}" for layer in plan.chosen]
