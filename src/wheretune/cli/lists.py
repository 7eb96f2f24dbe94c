"""`scorers`, `selectors`, `tuners`, `heads`, `tasks`, `metrics`, `schedules`: what there is on an axis."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from wheretune.cli.options import AsJson
from wheretune.cli.printing import show

AXES = {
    "scorer": "the scorers: formula, source, what they need, cost, and the selector their source uses",
    "selector": "the selectors: what each chooses, and whether it needs scores",
    "tuner": "the tuners: how each tunes the chosen layers",
    "head": "the heads: what sits on top of the model",
    "task": "the tasks: what is to be learned of the labels",
    "metric": "the metrics: what each measures, and which way is better",
    "schedule": "the schedules: when the chosen layers train",
}

COLUMNS = {"scorer": ("formula", "source", "needs", "cost", "selector")}  # what fits; `--json` has all


def _listing(axis: str) -> Callable[..., None]:
    """The command that lists an axis."""

    def command(json_: AsJson = False) -> None:
        from wheretune import catalog
        from wheretune.show.tables import table

        every = {name: described(axis, made) for name, made in catalog.every(axis).items()}
        columns = COLUMNS.get(axis) or tuple(dict.fromkeys(column for what in every.values() for column in what))
        rows = [(name, *(_cell(what.get(column)) for column in columns)) for name, what in every.items()]
        words = tuple(column.replace("_", " ") for column in columns)
        show(table(f"{axis}s", (axis, *words), rows, left=(axis, *words)), json_, every)

    command.__doc__ = f"List {AXES[axis]}.\n\nFor example:\n\nwheretune {axis}s"
    return command


scorers, selectors, tuners, heads, tasks, metrics, schedules = map(_listing, AXES)


def described(axis: str, made: Any) -> dict[str, Any]:
    """What is said of one thing on an axis, and its options with their defaults."""
    first = str(inspect.getdoc(made)).splitlines()[0]
    said: dict[str, Any] = {"does": first}
    if axis == "scorer":
        card = made.card
        said |= {"formula": card.formula, "source": card.source, "needs": card.needs_in_words, "cost": card.cost}
        said |= {"selector": card.selector, "direction": getattr(card, "direction", "highest")}
    elif axis == "selector":
        needs = made.needs_scores  # a property of one that holds another, which decides
        said = {"chooses": first, "needs_scores": needs if isinstance(needs, bool) else None}
    elif axis == "metric":
        said = {"measures": first, "reads": made.reads, "higher_is_better": made.higher_is_better}
    options = {} if axis == "metric" or not dataclasses.is_dataclass(made) else _options(made)
    return said | {"options": options}


def _options(made: Any) -> dict[str, Any]:
    """By option, its default as it is written; None where it must be given."""
    from wheretune import catalog
    from wheretune.records.base import Spec

    found = {}
    for one in dataclasses.fields(made):
        default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        missing = default is dataclasses.MISSING or default is None
        text = catalog.text_of(default) if isinstance(default, Spec) else str(default)
        found[one.name] = None if missing else text.lower() if isinstance(default, bool) else text
    return found


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(name if default is None else f"{name}={default}" for name, default in value.items()) or "–"
    return {True: "yes", False: "no", None: "–"}[value] if value is None or isinstance(value, bool) else str(value)
