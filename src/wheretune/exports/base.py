"""A plan in the words of other tools, and what several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from wheretune import catalog
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

FREEZE = """import re
for name, p in model.named_parameters():
    p.requires_grad = any(re.match(u, name) for u in unfrozen_parameters)"""
APART = ("peft",)  # the tools in whose words an encoder-decoder's layers can be named
LOW_RANK = ("lora", "dora", "pissa")  # the tuners that PEFT, Axolotl and LLaMA-Factory all have


def export(plan: Plan, tool: str) -> str:
    """The plan as a piece of a tool's own config file.

    Args:
        plan: Layers and tuner are taken from it, data and training are left to the tool.
        tool: A name on the catalog's axis `export`, such as `peft` or `axolotl`.

    Raises:
        ConfigError: The tool is unknown, or cannot say what the plan says.
    """
    write = catalog.find("export", tool)
    if not plan.layers:
        raise ConfigError("the plan names no layers", "plan with another tuner than head-only")
    if getattr(catalog.build("schedule", plan.schedule), "moves", False):
        raise ConfigError(f"no tool can carry out the schedule {plan.schedule}", "plan with the schedule static")
    if len(plan.model.stacks) > 1 and tool not in APART:
        raise ConfigError(
            f"{tool} is told of the layers of decoders, and {plan.model.name} is an encoder-decoder",
            f"export to {' or '.join(APART)}",
        )
    text: str = write(plan)
    return text


def low_rank(plan: Plan) -> Any:
    """The plan's tuner, where it is LoRA or one of its kin; None where it is another.

    Raises:
        ConfigError: The plan's settings of it cannot be used.
    """
    return catalog.build("tuner", plan.tuner) if plan.tuner.name in LOW_RANK else None


def whole_alpha(tuner: Any, tool: str) -> int:
    """The scale of a low-rank tuner; PiSSA's is its rank where none is given.

    Raises:
        ConfigError: It is no whole number, and the tool takes no other.
    """
    alpha = float(tuner.alpha or tuner.r)
    if not alpha.is_integer():
        raise ConfigError(f"{tool} takes whole numbers for alpha, and the plan has {alpha}", "plan with a whole one")
    return int(alpha)


def unfrozen(plan: Plan, tool: str) -> list[str]:
    """Patterns for `re.match` on the parameters' names in the model with its language-modelling head.

    Axolotl escapes every dot itself, so a pattern must do without dots that mean any character.

    Raises:
        ConfigError: The plan's tuner trains no parameters of the model's own, or all of them.
    """
    end = {"full": "", "bias": "[a-zA-Z0-9_.]*bias$"}.get(plan.tuner.name)
    if end is None:
        raise ConfigError(f"{tool} cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora")
    if plan.tuner.params.get("embeddings"):
        raise ConfigError("this plan trains everything, and needs no export", f"fine-tune the whole model in {tool}")
    prefix = f"{plan.model.prefix}." if plan.model.prefix else ""
    return [f"^{prefix}{layer.path}.{end}" for layer in plan.layer_infos]


def exactly(patterns: Sequence[str]) -> list[str]:
    """The patterns with the dots of their paths escaped: `layer.1.` would match layer 10 as well."""
    parts = [pattern.partition("[") for pattern in patterns]
    return [path.replace(".", r"\.") + bracket + rest for path, bracket, rest in parts]


def as_yaml(words: str, content: Mapping[str, Any]) -> str:
    """YAML below a comment."""
    head = "".join(f"# {line}\n" for line in words.splitlines())
    return head + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
