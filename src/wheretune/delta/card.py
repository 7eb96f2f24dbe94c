"""A card that says what a tuned model is."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.records.data import DataInfo
    from wheretune.records.plan import Plan


def model_card(plan: Plan, data: DataInfo | None) -> str:
    """A README.md in Markdown that says which layers were tuned, why, how sure the choice is and what it cost."""
    front: dict[str, Any] = {"library_name": "wheretune", "tags": ["wheretune", plan.tuner.name]}
    if not Path(plan.model.name).is_absolute():
        front["base_model"] = plan.model.name
    model, cost = plan.model, plan.cost
    why = f"chosen by {_escape(plan.selector)}"
    if plan.scorer is not None:
        why += f" from the scores of {_escape(plan.scorer)}"
    unsure = "unknown: the choice reads no scores, or they are no means over samples"
    rows = [
        ("base model", _escape(model.name) + (f" at {_escape(model.spec.revision)}" if model.spec.revision else "")),
        ("weights (SHA-256)", model.hash),
        ("layers", f"{_escape(', '.join(map(str, plan.layers)) or 'none')} of {len(model)}, counted from 0"),
        ("why these", why),
        *([("because", _escape(plan.reason))] if plan.reason is not None else []),
        ("how sure", unsure if plan.confidence is None else _escape(plan.confidence)),
        ("tuner", _escape(plan.tuner)),
        ("head", _escape(plan.head)),
        ("schedule", _escape(plan.schedule)),
        ("trainable", f"{cost.trainable_parameters} of {cost.total_parameters} parameters ({cost.share:.2%})"),
        ("expected", f"{cost}, by FLOPs"),
    ]
    if data is not None:
        task = task_of(data).describe(data.classes)
        rows.append(("data", f"{_escape(Path(data.spec.source).name)}, {data.rows} rows, {_escape(task)}"))
        rows += [("classes", _escape(", ".join(data.classes)))] if data.classes else []
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    scores = "".join(
        f"| {one.index} | {_escape(model.layers[one.index].path)} | {one.score:.4f} |\n"
        for one in plan.chosen
        if one.score is not None
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Tuned where it matters\n\n"
        "Only what changed is in this folder: open it with the base model, as below.\n\n"
        f"| | |\n| --- | --- |\n{table}\n"
        + (f"| layer | path | score |\n| --- | --- | --- |\n{scores}\n" if scores else "")
        + "```python\nimport wheretune as wt\n\n"
        + (
            "tuned = wt.open_finetuned(folder)  # this folder; tuned.logits(data)\n"
            if data is not None
            else "wt.load_delta(model, folder)  # your model, made as it was made for training, and this folder\n"
        )
        + "```\n"
    )


def _escape(thing: object) -> str:
    """Text as Markdown shows it, whatever is in it."""
    text = html.escape(" ".join(str(thing).split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in text)
