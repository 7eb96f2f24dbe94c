"""A plan with its data in other tools' words."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.exports.axolotl import axolotl_data
from wheretune.exports.base import as_yaml, export
from wheretune.exports.data import told
from wheretune.exports.llama_factory import llama_factory_data
from wheretune.exports.trl import trl_data

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec
    from wheretune.records.plan import Plan

SAY = {
    "trl": ("TRL", trl_data),
    "axolotl": ("Axolotl", axolotl_data),
    "llama-factory": ("LLaMA-Factory", llama_factory_data),
}
LEAVE = {"unsloth": "Unsloth", "ms-swift": "ms-swift"}  # their configs take comments, and the data is left to the user


def export_with_data(
    plan: Plan, tool: str, spec: DataSpec, folder: Path | None = None
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The plan and its data as a piece of a tool's config, and the JSON files that lie beside it.

    Args:
        plan: The plan.
        tool: A name on the catalog's axis `export`.
        spec: The data.
        folder: Where the piece will lie; None where nobody knows, and the files beside it are comments then.

    Raises:
        ConfigError: The tool cannot say what the plan or the data says.
        DataError: The data cannot be read.
    """
    text = export(plan, tool)
    if tool in LEAVE:
        data = told(LEAVE[tool], spec, Path())
        what = f"{data.spec.source} ({data.task.describe(())}, at most {data.max_length} tokens)"
        return text + _comment(f"The data is left to you: {what}. What `wheretune preview` marks is to be learned."), {}
    if tool not in SAY:
        raise ConfigError(f"{tool} says nothing of data", f"leave the data out, or export to {', '.join(SAY)}", "data")
    name, say = SAY[tool]
    piece = say(told(name, spec, folder or Path()))
    notes = "\n".join(fill(note, 110) for note in ("The data.", *piece.notes))
    text += "\n" + as_yaml(notes, piece.content)
    if folder is not None:
        return text, {name: dict(content) for name, content in piece.beside.items()}
    for name, content in piece.beside.items():
        shown = json.dumps(content, indent=2, ensure_ascii=False)
        text += "".join(f"# {line}\n" for line in f"{name}, in the folder dataset_dir:\n{shown}".splitlines())
    return text, {}


def _comment(words: str) -> str:
    return "".join(f"# {line}\n" for line in fill(words, 110).splitlines())
