"""`plan`, `cost`, `export` and `inspect`: what to tune, what it costs, and the plan in other tools' words."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheretune.cli.choice import ChoiceOptions, TuningOptions, needs_of, refuse_unread, scorer_of
from wheretune.cli.groups import needed, option, refuse
from wheretune.cli.options import (
    AsJson,
    BaseOptions,
    Config,
    DataFile,
    DataOptions,
    LayersAttribute,
    ModelOptions,
    Overwrite,
    Revision,
    Seed,
    TrainOptions,
)
from wheretune.cli.printing import note, show, write_out
from wheretune.cli.reading import ReadingOptions
from wheretune.cli.reporting import (
    add_to_json,
    check_free,
    check_preset,
    file_to_write,
    one_of,
    plan_of,
    refuse_other,
    selector_for,
    selector_that_fits,
    write_unless_other,
)

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.records.plan import Plan
    from wheretune.records.scores import LayerScores

TO_SCORE = tuple(one.name for group in (ModelOptions, TrainOptions, ReadingOptions) for one in fields(group))
OF_TEXTS = tuple(one.name for one in fields(DataOptions))


MAY_GIVE_WAY = ("last-token", "dense")  # heads whose place a checkpoint's own, trained one may take


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
    overwrite: Overwrite = False,
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
    from wheretune.show.records import plan_table

    axes = tuning.specs()
    target, choice = file_to_write(output), choice.through(context, axes["schedule"])
    if scores_file is not None:
        refuse(context, TO_SCORE, "a scores file")
        made = _from_scores(context, scores_file, scorer, choice, axes, seed)
    else:
        asked = scorer_of(scorer or "cosine-centrality")
        refuse_unread(context, needs_of([asked]))
        choice = choice.checked(context, asked, seed)
        scores, made = _from_model(model, data, reading, choice, axes, asked, target, overwrite, seed)
        if scores is not None and not json_:
            show(scores)
    write_unless_other(target, lambda path: save(made, path), overwrite)
    open_head = scores_file is not None and made.head.name in MAY_GIVE_WAY
    show(plan_table(made, open_head), json_, to_json(made))
    if open_head:
        note(
            f"the head is settled by tune: a checkpoint's own of the same classes is kept in place of {made.head.name}"
        )
    note(f"plan in {target}; next: wheretune tune --plan {target} --train F --output DIR")


def _from_scores(
    context: typer.Context, path: Path, scorer: str | None, choice: ChoiceOptions, axes: dict[str, Any], seed: int
) -> Plan:
    """The plan that follows from saved scores; no model is opened."""
    from wheretune import automatic, catalog, planning
    from wheretune.records.scores import load_scores

    scores = one_of(load_scores(path), scorer)
    choice = choice.checked(context, scores.scorer, seed)
    check_preset(choice.preset, scores.model.causal)
    made = {axis: catalog.build(axis, spec) for axis, spec in axes.items() if spec is not None}
    chooses = made["tuner"].needs_layers
    selector = selector_for(choice, scores.model, scores.scorer, seed) if chooses else None
    return planning.plan(scores, selector and automatic.with_layers_above(selector, scores.data), **made)


def _from_model(
    model: ModelOptions,
    data: TrainOptions,
    reading: ReadingOptions,
    choice: ChoiceOptions,
    axes: dict[str, Any],
    scorer: Spec,
    target: Path,
    overwrite: bool,
    seed: int,
) -> tuple[LayerScores | None, Plan]:
    """Scores, where the selector reads scores, and the plan that follows."""
    from wheretune.session import Session

    how = reading.reading(seed)
    train, spec = data.spec_of_train(seed, "a scores file or --model and --train"), model.spec()
    session = Session(shared=False)
    session.texts(train, needs_of([scorer]))  # data is refused before the model is opened
    selector = selector_that_fits(choice, spec, scorer, seed)
    check_free(target, overwrite)
    from wheretune.pipeline import choose
    from wheretune.records.runs import RunSpec

    asked = RunSpec(spec, train, scorer=scorer, reading=how, selector=selector, **axes)
    return choose(asked, session, probes=target.parent / f"{target.stem}-probe")


# --- what it costs -------------------------------------------------------------------------------


def cost(
    context: typer.Context,
    model: BaseOptions,
    texts: DataOptions,
    plan_given: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="The same as --plan.", show_default=False)
    ] = None,
    plan_file: Annotated[
        Path | None,
        option(
            "--plan",
            "What `wheretune plan` wrote, or the folder of a run.",
            default=False,
            rich_help_panel="Choice",
        ),
    ] = None,
    data: DataFile = None,
    epochs: Annotated[int, option("--epochs", "Passes over the data.", rich_help_panel="Training")] = 3,
    batch_size: Annotated[int, option("--batch-size", "Texts in a batch.", rich_help_panel="Training")] = 16,
    measure: Annotated[
        bool,
        option(
            "--measure",
            "Load the model and time a few steps of the plan and of full fine-tuning.",
            rich_help_panel="Training",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        option("--output", "Where the numbers go, as JSON.", default="none", rich_help_panel="Output"),
    ] = None,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Say what a plan costs beside full fine-tuning, in FLOPs and memory, and what each saving brings.

    It loads no weights and trains nothing, unless --measure asks this machine. Without --data it takes the length and
    number of the texts that the plan was made for.

    For example:

    wheretune cost plan.json --epochs 5

    wheretune cost --plan plan.json --data train.jsonl

    wheretune cost --model bert-base-cased --plan plan.json --data train.jsonl --batch-size 32 --measure
    """
    from wheretune.records.base import save, to_json
    from wheretune.records.runs import TrainSettings

    if plan_given is not None:
        refuse(context, ("plan_file",), "a plan that is given without it")
    path = needed(plan_given or plan_file, "--plan")
    given = plan_of(path / "plan.json" if path.is_dir() else path)
    target = None if output is None else file_to_write(output)
    settings = TrainSettings(epochs, batch_size=batch_size, seed=seed)
    if data is None:
        unread = (*OF_TEXTS, *(one.name for one in fields(BaseOptions)), "measure")
        refuse(context, unread, "the texts that the plan was made for (add --data)")
        from wheretune import planning

        found = planning.cost(given, epochs=epochs, batch_size=batch_size)
    else:
        spec, where = texts.spec(data, seed), model.over(given.model.spec)
        from wheretune.session import Session

        session = Session(shared=False)
        session.data(spec, labels="ignored")  # data is refused before the model is looked at
        from wheretune import pricing

        if target is not None and measure:  # which takes long
            check_free(target, overwrite)
        found = pricing.cost(given, spec, where, epochs=epochs, batch_size=batch_size, session=session)
        if measure:
            from wheretune.training.timing import time_steps

            found = replace(found, measured=time_steps(given, spec, where, settings=settings))
    if target is not None:
        write_unless_other(target, lambda path: save(found, path), overwrite)
    show(found, json_, to_json(found))
    if target is not None:
        note(f"the cost is in {target}")


# --- in other words ------------------------------------------------------------------------------


def export(
    context: typer.Context,
    texts: DataOptions,
    plan_file: Annotated[
        Path,
        typer.Argument(metavar="PLAN", help="What `wheretune plan` wrote, or the folder of a run.", show_default=False),
    ],
    to: Annotated[
        str,
        option(
            "--to",
            "Which tool: peft, trl, axolotl, llama-factory, unsloth, ms-swift, or what another package adds.",
            axis="export",
            rich_help_panel="Output",
        ),
    ] = "peft",
    data: DataFile = None,
    output: Annotated[
        Path | None, option("--output", "Where it goes.", default="standard output", rich_help_panel="Output")
    ] = None,
    overwrite: Overwrite = False,
    config: Config = None,
) -> None:
    """Write a plan, and the data to train on, as a piece of another tool's config.

    So layers are chosen with wheretune and trained with that tool. With --data the piece also says which data that is
    and which of its tokens are learned; what the tool cannot say is a comment in it, or refused.

    For example:

    wheretune export plan.json --to axolotl --output unfrozen.yaml

    wheretune export plan.json --to trl --data chat.jsonl --max-length 1024 --output sft.yaml
    """
    from wheretune.support.files import write_text

    made = plan_of(plan_file / "plan.json" if plan_file.is_dir() else plan_file)
    target = None if output is None else file_to_write(output)
    beside: dict[str, dict[str, Any]] = {}
    if data is None:
        refuse(context, OF_TEXTS, "a plan alone (add --data)")
        from wheretune.exports.base import export as export_to

        text = export_to(made, to)
    else:
        from wheretune.exports.with_data import export_with_data

        text, beside = export_with_data(made, to, texts.spec(data), None if target is None else target.parent)
    if target is None:
        write_out(text)
        return
    refuse_other(target, text.encode(), overwrite)
    for name, content in beside.items():
        add_to_json(target.parent / name, content)
        note(f"the data for {to} is in {target.parent / name}")
    write_text(target, text)
    note(f"the plan for {to} is in {output}")


def inspect(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Local folder or hub name.")] = None,
    revision: Revision = None,
    layers_attribute: LayersAttribute = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Show the layers of a model, and how many parameters each tuner would train in each. Loads no weights.

    For example:

    wheretune inspect bert-base-cased
    """
    spec = ModelOptions(model, revision=revision, layers_attribute=layers_attribute).spec("MODEL")
    from wheretune import planning
    from wheretune.show.tables import table
    from wheretune.support.words import count

    found = planning.inspect(spec)
    tuners = list(found["layers"][0]["tuners"])
    rows = [
        (
            one["name"],
            one["path"],
            count(one["parameters"]),
            *("–" if n is None else count(n) for n in one["tuners"].values()),
        )
        for one in found["layers"]
    ]
    kind = "decoder" if found["causal"] else "encoder"
    title = f"{found['model']}: {kind}, width {found['hidden_size']}, {count(found['parameters'])} parameters"
    show(table(title, ("layer", "path", "parameters", *tuners), rows, left=("path",)), json_, found)
