"""A plan in the words of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from wheretune import catalog
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.plan import Plan

LOW_RANK = ("lora", "dora", "pissa")  # the tuners that TRL, Axolotl and LLaMA-Factory all have


def export(plan: Plan, tool: str) -> str:
    """The plan as a piece of a tool's own config file.

    Args:
        plan: Layers and tuner are taken from it, data and training are left to the tool.
        tool: `peft`, `trl`, `axolotl` or `llama-factory`.

    Raises:
        ConfigError: The tool is unknown, or cannot say what the plan says.
    """
    write = catalog.find("export", tool)
    if not plan.chosen:
        raise ConfigError("the plan names no layers", "make it with this version, and another tuner than head-only")
    text: str = write(plan)
    return text


def as_yaml(words: str, content: Mapping[str, Any]) -> str:
    """YAML below a comment."""
    head = "".join(f"# {line}\n" for line in words.splitlines())
    return head + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
