"""`schedule`: which layers would train at which step, before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheretune.cli.choice import whole
from wheretune.cli.groups import needed, option, refuse
from wheretune.cli.options import AsJson, Config, Overwrite, Seed
from wheretune.cli.printing import note, show
from wheretune.cli.reporting import file_to_write, write_unless_other

if TYPE_CHECKING:
    from wheretune.schedules.base import Schedule
    from wheretune.schedules.timetable import Span

STRETCHES = 60  # characters of a row


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
    figure: Annotated[
        Path | None,
        option("--figure", "Where the map goes as a PNG.", default="none", rich_help_panel="Output"),
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
    """  # fmt: skip
    from wheretune import catalog
    from wheretune.records.base import Spec
    from wheretune.records.data import check_seed
    from wheretune.records.runs import at_least
    from wheretune.schedules.timetable import shares, timetable
    from wheretune.show.tables import share_table

    check_seed(seed)
    asked = catalog.build("schedule", whole("schedule", schedule))
    count, length = needed(layers, "--layers"), needed(steps, "--steps")
    at_least(1, "layers", count)
    at_least(1, "steps", length)
    target = None if figure is None else file_to_write(figure)
    asked.check(count, Spec("full"))
    named = catalog.text_of(Spec.of(asked))
    if asked.unit != "layer":
        refuse(context, ("figure",), f"--schedule {asked.name}, which goes by how much weights change")
        first = _show_first if asked.unit == "tensor" else _show_round
        first(asked, named, count, length, seed, json_)
        return
    spans = timetable(asked, count, range(count), length, seed)
    table = share_table(f"{named}, {count} layers, {length} steps, seed {seed}", shares(spans, count, STRETCHES))
    show(table, json_, {"layers": count, "steps": length, "spans": [_plain(span) for span in spans]})
    if target is not None:
        from wheretune.show.figures import save_figure, timetable_figure

        drawn = timetable_figure([(one.first, one.last, one.units) for one in spans], count, title=named)
        write_unless_other(target, lambda path: save_figure(drawn, path), overwrite, "figure")
        note(f"the map is in {target}")


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
