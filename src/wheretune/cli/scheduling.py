"""`schedule`: which layers would train at which step, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheretune.cli.choice import whole
from wheretune.cli.groups import needed, option, refuse
from wheretune.cli.options import AsJson, Config, Overwrite, Seed
from wheretune.cli.printing import note, show
from wheretune.cli.reporting import file_to_write, write_unless_other
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.schedules.base import Schedule
    from wheretune.schedules.timetable import Span
    from wheretune.scheduling import StageRows

STRETCHES = 60  # characters of a row
MOST_STEPS, MOST_LAYERS = 100_000, 1000  # each is looked at, which takes seconds


def schedule(
    context: typer.Context,
    schedule: Annotated[
        str,
        option(
            "--schedule",
            "Which one; see `wheretune schedules`. Options follow colons: lisa:layers=2.",
            axis="schedule",
            rich_help_panel="Choice",
        ),
    ] = "static",
    layers: Annotated[
        int | None, option("--layers", "How many layers the model has.", metavar="N", rich_help_panel="Choice")
    ] = None,
    steps: Annotated[
        int | None, option("--steps", "How many optimizer steps there are.", metavar="N", rich_help_panel="Training")
    ] = None,
    scores_file: Annotated[
        Path | None,
        option(
            "--scores",
            "For a schedule that goes by what each text needs (salf): scores by semantic-deviation, or the "
            "eof-layers.json of a run.",
            default="none",
            rich_help_panel="Choice",
        ),
    ] = None,
    batch_size: Annotated[
        int, option("--batch-size", "With --scores, in place of --steps: texts in a batch.", rich_help_panel="Training")
    ] = 16,
    figure: Annotated[
        Path | None,
        option(
            "--figure",
            "Where the map goes, as its ending says (.png, .svg, .pdf ...); with --scores, the histogram of eof layers "
            "with the budget over it.",
            default="none",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Show which layers train at which step, before anything trains and without a model.

    Steps and layers are counted from 0, both ends of a span are counted.

    For example:

    wheretune schedule --schedule lisa:layers=2:every=20 --layers 12 --steps 60 --seed 42

    wheretune schedule --schedule salf:budget=geometric --scores runs/salf/eof-layers.json --figure salf.png
    """  # fmt: skip
    from wheretune import catalog
    from wheretune.records.base import Spec
    from wheretune.records.data import check_seed
    from wheretune.records.runs import at_least
    from wheretune.schedules.timetable import shares, timetable
    from wheretune.scheduling import filled
    from wheretune.show.tables import share_table

    check_seed(seed)
    asked = catalog.build("schedule", whole("schedule", schedule))
    named = schedule  # as it was asked for: with all its options the title would be longer than the table is wide
    target = None if figure is None else _figure_to_write(figure)
    eof_layers: list[int] = []
    stages: list[StageRows] = []
    if scores_file is None:
        refuse(context, ("batch_size",), "--steps (add --scores)")
    else:
        layers, eof_layers = _eof_layers(context, asked, scores_file, layers, steps)
        stages = filled(asked, eof_layers, range(layers), seed)
        if steps is None:
            at_least(1, "batch_size", batch_size)
            ends = tuple(accumulate(-(-stage.texts // batch_size) for stage in stages))
            asked, steps = replace(asked, ends=ends), ends[-1]
    count, length = needed(layers, "--layers"), needed(steps, "--steps")
    at_least(1, "layers", count)
    at_least(1, "steps", length)
    if length > MOST_STEPS:
        remedy = f"give {MOST_STEPS:,} or fewer: of more steps the shares of the layers are the same"
        raise ConfigError(f"steps is {length}, and each is looked at", remedy, "steps")
    if count > MOST_LAYERS:
        raise ConfigError(f"layers is {count}", f"give {MOST_LAYERS:,} or fewer", "layers")
    asked.check(count, Spec("full"))
    if asked.unit != "layer":
        refuse(context, ("figure",), f"--schedule {asked.name}, which goes by how much weights change")
        first = _show_first if asked.unit == "tensor" else _show_round
        first(asked, named, count, length, seed, json_)
        return
    spans = timetable(asked, count, range(count), length, seed)
    plain = {"layers": count, "steps": length, "spans": [_plain(span) for span in spans]}
    content = plain | ({"stages": [asdict(stage) for stage in stages]} if stages else {})
    show(
        share_table(f"{named}, {count} layers, {length} steps, seed {seed}", shares(spans, count, STRETCHES)),
        json_,
        content,
    )
    if stages and not json_:
        _show_stages(stages, len(eof_layers))
    if target is not None:
        _draw(spans, count, named, eof_layers, stages, target, overwrite)


def _eof_layers(
    context: typer.Context, asked: Schedule, path: Path, layers: int | None, steps: int | None
) -> tuple[int, list[int]]:
    """How many layers there are, and the eof layer of every text, from the file that --scores names.

    Raises:
        ConfigError: The schedule does not go by scores, or the options contradict one another.
    """
    from wheretune.schedules.base import OrdersRows
    from wheretune.scheduling import eof_layers_of

    if not isinstance(asked, OrdersRows):
        refuse(context, ("scores_file",), f"--schedule {asked.name}, which does not go by scores")
    if steps is not None:
        refuse(context, ("batch_size",), "--steps, which says how many there are")
    known, found = eof_layers_of(path)
    if layers not in (None, known):
        raise ConfigError(f"{path} is of {known} layers, and --layers is {layers}", "leave out --layers")
    return known, found


def _show_stages(stages: Sequence[StageRows], texts: int) -> None:
    """Shows how many texts each stage reads, and how many of these it is meant for."""
    from wheretune.show.tables import table

    rows = [(f"{stage.layer} and above", str(stage.texts), str(stage.matching)) for stage in stages if stage.texts]
    columns = ("layers that train", "texts", "of these with an eof layer no higher; the others are drawn")
    show(table(f"the stages, over {texts} texts", columns, rows, left=columns[:1]))


def _draw(
    spans: Sequence[Span],
    layers: int,
    title: str,
    eof_layers: Sequence[int],
    stages: Sequence[StageRows],
    target: Path,
    overwrite: bool,
) -> None:
    """Writes the map, or the histogram of eof layers with the budget over it."""
    from wheretune.show.figures import budget_figure, save_figure, timetable_figure

    if stages:
        counts = [eof_layers.count(layer) for layer in range(layers)]
        figure = budget_figure(counts, [(one.texts, one.matching) for one in stages], title=title)
    else:
        figure = timetable_figure([(one.first, one.last, one.units) for one in spans], layers, title=title)
    write_unless_other(target, lambda path: save_figure(figure, path), overwrite, "figure")
    note(f"the {'histogram' if stages else 'map'} is in {target}")


def _figure_to_write(path: Path) -> Path:
    """A place for a figure, and a format that can be written."""
    from wheretune.show.figures import check_ending

    check_ending(path)
    return file_to_write(path)


def _plain(span: Span) -> dict[str, Any]:
    return {"from": span.first, "to": span.last, "layers": list(span.units)}


def _show_first(asked: Schedule, named: str, layers: int, steps: int, seed: int, json_: bool) -> None:
    """Shows the first set of a schedule that goes by how much weights change: no more is known beforehand."""
    from wheretune.schedules.slimfit import bert_tensors
    from wheretune.schedules.timetable import timetable
    from wheretune.show.tables import table

    tensors = bert_tensors(layers)
    first = timetable(asked, layers, range(layers), steps, seed, tensors)[0].units
    names = [name for number, name in enumerate(tensors) if number in first]
    why = f"{asked.name} goes by how much each tensor changes, so no more than its first set is known beforehand"
    what = f"the ranked tensors of a BERT of {layers} layers, counted from 0; biases always train"
    rows = [(str(number), name) for number, name in zip(first, names, strict=True)]
    title = f"{named}, step 0, seed {seed}: {len(first)} of {len(tensors)}, {what}"
    inside = sorted({int(name.split(".")[1]) for name in names if name.startswith("layer.")})
    span = {"from": 0, "to": 0, "layers": inside, "tensors": list(first), "names": names}
    found = {"layers": layers, "steps": steps, "spans": [span], "known": f"{why}; {what}"}
    show(table(title, ("tensor", "name"), rows, left=("name",)), json_, found)
    note(why)


def _show_round(asked: Any, named: str, layers: int, steps: int, seed: int, json_: bool) -> None:
    """Shows how large the first working copy is: which rows it has goes by the weights, and is not known beforehand."""
    from wheretune.schedules.recap import copy_of_bert
    from wheretune.show.tables import table

    state = asked.init(layers, range(layers), {}, steps, seed)
    last = max(step for step in range(steps) if asked.round(state, step)[0] == 0)
    found = copy_of_bert(asked, layers)
    why = (
        f"{asked.name} goes by the weights and their gradients, anew in each of its {asked.rounds} rounds, so no more "
        "than the size of its first set is known beforehand"
    )
    what = f"a BERT-base of {layers} layers, all of which train; embeddings, norms and head train whole"
    title = f"{named}, round 0 (steps 0 to {last}), seed {seed}: the working copy of {what}"
    rows = [(name, f"{some:,}", f"{every:,}") for name, (some, every) in found.items()]
    copy = {name: {"taken": some, "of": every} for name, (some, every) in found.items()}
    span = {"from": 0, "to": last, "layers": list(range(layers)), "copy": copy}
    plain = {"layers": layers, "steps": steps, "spans": [span], "known": f"{why}; {what}"}
    show(table(title, ("what", "taken", "of"), rows, left=("what",)), json_, plain)
    note(why)
