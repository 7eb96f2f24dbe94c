"""`plan`, `cost`, `export` and `inspect`: what to tune, what it costs, and the plan in other tools' words."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheretune.cli.choice import ChoiceOptions, TuningOptions, refuse_unread, scorer_of
from wheretune.cli.groups import option, refuse
from wheretune.cli.options import (
    AsJson,
    Config,
    ModelOptions,
    ReadingOptions,
    Seed,
    TrainOptions,
)
from wheretune.cli.printing import note, show
from wheretune.cli.reporting import check_preset, file_to_write, one_of, selector_for

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.records.plan import Plan

TO_SCORE = tuple(one.name for group in (ModelOptions, TrainOptions, ReadingOptions) for one in fields(group))


def plan(
    context: typer.Context,
    model: ModelOptions,
    data: TrainOptions,
    reading: ReadingOptions,
    choice: ChoiceOptions,
    tuning: TuningOptions,
    scores_file: Annotated[
        Path | None, typer.Argument(metavar="[SCORES]", help="What `wheretune score` wrote.", show_default=False)
    ] = None,
    scorer: Annotated[
        str | None,
        option(
            "--scorer",
            "Whose scores, where there are several; or what to score with.",
            default="cosine-centrality",
            axis="scorer",
            rich_help_panel="Choice",
        ),
    ] = None,
    output: Annotated[Path, option("--output", "Where the plan goes.", rich_help_panel="Output")] = Path("plan.json"),
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Choose the layers to tune, from scores or (with --model and --train) scoring first.

    For example:

    wheretune plan scores.json --select block-highest --k 3 --output plan.json

    wheretune plan --model bert-base-cased --train train.jsonl --select lowest --k 3 --head concat

    wheretune plan scores.json --select budget --budget 0.4

    wheretune plan --model bert-base-cased --train train.jsonl --preset cka-encoder

    wheretune plan scores.json --k 3 --tuner lora:r=8:targets=all-linear
    """
    from wheretune.records.base import save, to_json

    axes = tuning.specs()
    target = file_to_write(output)
    if scores_file is not None:
        refuse(context, TO_SCORE, "a scores file")
        made = _from_scores(context, scores_file, scorer, choice, axes, seed)
    else:
        asked = scorer_of(scorer or "cosine-centrality")
        refuse_unread(context, needs_of([asked]))
        made = _from_model(context, model, data, reading, choice, axes, asked, target, json_, seed)
    save(made, target)
    show(made, json_, to_json(made))
    note(f"plan in {target}; next: wheretune tune --plan {target} --train F --output DIR")


def _from_scores(
    context: typer.Context,
    path: Path,
    scorer: str | None,
    choice: ChoiceOptions,
    axes: dict[str, Spec],
    seed: int,
) -> Plan:
    """The plan that follows from saved scores; no model is opened."""
    from wheretune import catalog, planning
    from wheretune.records.scores import load_scores

    scores = one_of(load_scores(path), scorer)
    choice = choice.checked(context, scores.scorer, seed)
    check_preset(choice.preset, scores.model.causal)
    made = {axis: catalog.build(axis, spec) for axis, spec in axes.items()}
    chooses = made["tuner"].needs_layers
    selector = selector_for(choice, len(scores.layers), scores.scorer, seed) if chooses else None
    return planning.plan(scores, selector, **made)
