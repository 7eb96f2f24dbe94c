"""`schedule`: which layers would train at which step, before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wheretune.cli.choice import whole
from wheretune.cli.groups import needed, option
from wheretune.cli.options import AsJson, Config, Seed
from wheretune.cli.printing import note, show
from wheretune.cli.reporting import file_to_write

if TYPE_CHECKING:
    from wheretune.schedules.timetable import Span

STRETCHES = 60  # characters of a row


def schedule(
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
    spans = timetable(asked, count, range(count), length, seed)
    named = catalog.text_of(Spec.of(asked))
    table = share_table(f"{named}, {count} layers, {length} steps, seed {seed}", shares(spans, count, STRETCHES))
    show(table, json_, {"layers": count, "steps": length, "spans": [_plain(span) for span in spans]})
    if target is not None:
        from wheretune.show.figures import save_figure, timetable_figure

        save_figure(timetable_figure([(one.first, one.last, one.units) for one in spans], count, title=named), target)
        note(f"the map is in {target}")


def _plain(span: Span) -> dict[str, Any]:
    return {"from": span.first, "to": span.last, "layers": list(span.units)}
