"""What is made of scores: the file, the table, the figures, and several scorers side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from wheretune.cli.choice import ChoiceOptions, scorer_of
from wheretune.cli.groups import Group, group, option
from wheretune.cli.printing import note, show
from wheretune.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from wheretune.agreement import Agreement
    from wheretune.planning import AnySelector
    from wheretune.records.base import Spec
    from wheretune.records.model import ModelInfo, ModelSpec
    from wheretune.records.plan import Plan
    from wheretune.records.scores import LayerScores


@group
class ReportOptions(Group):
    """What is made of scores, beside the file."""

    panel: ClassVar[str] = "Output"
    figures: Annotated[
        Path | None,
        option("--figures", "Folder for the figures (profile.png and what else there is).", default="none"),
    ] = None
    before: Annotated[
        Path | None,
        option("--before", "Scores from before the model was tuned: deviations.png has both.", default="none"),
    ] = None
    compare: Annotated[
        bool, option("--compare", "Several scorers side by side: how alike they rank, who would choose what.")
    ] = False

    def checked(self, scorers: int) -> ReportOptions:
        """The same, seen to go with so many scorers.

        Raises:
            ConfigError: An option lacks another, or there is one scorer to compare.
        """
        if self.before is not None and self.figures is None:
            raise ConfigError("--before is for deviations.png", "add --figures")
        if self.compare and scorers < 2:
            raise ConfigError("--compare needs several scorers", "name them with --scorer a,b,c")
        return self

    @property
    def earlier(self) -> LayerScores | None:
        """The scores from before.

        Raises:
            ConfigError: There is no such file, or it holds no semantic deviations.
        """
        from wheretune.records.scores import load_scores

        return None if self.before is None else one_of(load_scores(self.before), "semantic-deviation")


def selector_for(choice: ChoiceOptions, model: ModelInfo | int, scorer: Spec, seed: int) -> AnySelector:
    """The selector that was asked for, seen to be able to choose among a model's layers, or among so many.

    Raises:
        PlanError: It is not.
    """
    from wheretune import catalog, planning

    made: AnySelector = catalog.build("selector", choice.selector(scorer, seed))
    planning.check(made, model)
    return made


def selector_that_fits(choice: ChoiceOptions, model: ModelSpec, scorer: Spec, seed: int) -> Spec:
    """The selector that was asked for, seen to fit a model, whose weights are not opened for that.

    Raises:
        ConfigError: The preset is meant for another kind of model.
        PlanError: The selector cannot choose among so many layers.
    """
    from wheretune.support.hub import layers_said

    if (said := layers_said(model.name)) is not None:
        selector_for(choice, said, scorer, seed)  # what the config refuses needs no torch
    from wheretune.model.opening import outline

    _, info = outline(model)
    check_preset(choice.preset, info.causal)
    selector_for(choice, info, scorer, seed)
    return choice.selector(scorer, seed)


def check_preset(preset: str | None, causal: bool) -> None:
    """Refuses a preset that is meant for another kind of model.

    Raises:
        ConfigError: It is.
    """
    if preset is not None:
        from wheretune.recipes.presets import check_kind, presets

        check_kind(presets()[preset].recipe, causal, "preset")


def file_to_write(path: Path, overwrite: bool = True) -> Path:
    """A place for a file, seen to be one that can be written before the work is done.

    Args:
        path: The place.
        overwrite: What is there may go. Work that is quickly done again finds out afterwards whether it must:
            `write_unless_other`.

    Raises:
        OutputError: It is a folder, nothing can be written there, or a file is there that may not go.
    """
    from wheretune.support.files import check_writable

    if path.is_dir():
        raise OutputError(f"{path} is a folder", "give a file as --output")
    if path.exists() and not path.is_file():  # /dev/null, a pipe
        return path
    try:
        check_writable(path.resolve().parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path} ({error.strerror or error})", "choose another place", "output"
        ) from error
    check_free(path, overwrite)
    return path


def check_free(path: Path, overwrite: bool) -> None:
    """Refuses, before a long work is done, a file that is there already.

    Raises:
        OutputError: There is one, and nobody said that it may go.
    """
    if path.is_file() and not overwrite:
        raise OutputError(f"{path} is there already", "replace it (overwrite), or give another --output", "output")


def write_unless_other(path: Path, fill: Callable[[Path], object], overwrite: bool, field: str = "output") -> None:
    """Lets `fill` write a file; one that is there stays, if it says something else.

    Raises:
        OutputError: It does, and nobody said that it may go; or the place cannot be written to.
    """
    from wheretune.support.files import write

    with tempfile.TemporaryDirectory() as elsewhere:
        draft = Path(elsewhere) / path.name
        fill(draft)
        made = draft.read_bytes()
    refuse_other(path, made, overwrite, field)
    write(path, lambda place: place.write_bytes(made))


def refuse_other(path: Path, made: bytes, overwrite: bool, field: str = "output") -> None:
    """Refuses a file that is there and says something else than what was made.

    Raises:
        OutputError: There is one, and nobody said that it may go.
    """
    if path.is_file() and not overwrite and path.read_bytes() != made:
        remedy = f"replace it (overwrite), or give another --{field}"
        raise OutputError(f"{path} is there already and says something else", remedy, field)


def add_to_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object; what else a file that is there already says is kept.

    Raises:
        OutputError: What is there is no JSON object.
    """
    from wheretune.support.files import write_json

    kept: Any = {}
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            kept = None
    if not isinstance(kept, dict):
        raise OutputError(f"{path} holds no JSON object", "mend it, or give another folder as --output")
    write_json(path, kept | content)


def plan_of(path: Path) -> Plan:
    """A saved plan whose tuner, head and schedule are known here.

    Raises:
        ConfigError: The file holds no plan, or names something that is not known.
    """
    from wheretune.records.plan import load_plan

    plan = load_plan(path)
    check_axes(plan, ("tuner", "head", "schedule"), str(path))
    return plan


def check_axes(made: object, axes: Sequence[str], origin: str) -> None:
    """Refuses a name or an option that is unknown, before anything is opened.

    Args:
        made: What has a `Spec` for each axis, or None where the task decides.
        axes: Which.
        origin: The file that it was read from.

    Raises:
        ConfigError: One is unknown.
    """
    from wheretune import catalog

    for axis in axes:
        spec = getattr(made, axis)
        try:
            if spec is not None:
                catalog.build(axis, spec)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error.problem}", error.remedy) from error


def check_readable(path: Path) -> None:
    """Refuses a file that cannot be read, before what would read it is opened.

    Raises:
        ConfigError: It cannot.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error


def one_of(every: list[LayerScores], name: str | None) -> LayerScores:
    """The scores of the scorer that was named, or the only ones there are.

    Raises:
        ConfigError: The scorer is unknown, the file has no scores by it, or there are several and none was named.
    """
    there = [str(scores.scorer) for scores in every]
    found = every
    if name is not None:
        asked = scorer_of(name)
        found = [
            scores
            for scores in every
            if scores.scorer.name == asked.name and asked.params.items() <= scores.scorer.params.items()
        ]
    if not found:
        raise ConfigError(f"the file has no scores by {name!r}", f"it has {', '.join(there)}")
    if len(found) > 1:
        raise ConfigError("the file has several scores", f"name one with --scorer: {', '.join(there)}")
    return found[0]


def report_on(
    every: list[LayerScores],
    selectors: Sequence[AnySelector],
    output: Path,
    report: ReportOptions,
    before: LayerScores | None,
    json_: bool,
) -> None:
    """Says what would be chosen, writes the scores and figures, and shows them."""
    from wheretune.agreement import agreement
    from wheretune.automatic import with_layers_above
    from wheretune.planning import choose
    from wheretune.records.base import to_json
    from wheretune.records.scores import save_scores

    save_scores(every, output)  # they stand, whatever is then made of them
    selectors = [with_layers_above(selector, one.data) for one, selector in zip(every, selectors, strict=True)]
    every = [replace(one, choice=choose(one, selector)) for one, selector in zip(every, selectors, strict=True)]
    save_scores(every, output)
    side_by_side = agreement(every, selectors) if report.compare else None
    if report.figures is not None:
        _draw(every, report.figures, before, side_by_side)
    if json_:
        written = [to_json(scores) for scores in every]
        content: dict[str, Any] = written[0] if len(every) == 1 else {"scores": written}
        show(None, json_, content | ({"agreement": to_json(side_by_side)} if side_by_side is not None else {}))
    else:
        for scores in every:
            show(scores.profile(scores.choice.layers if scores.choice is not None else ()))
            chosen = None if scores.choice is None else scores.choice.in_words(scores.model.called)
            for said in (scores.data.stream, scores.settlement, scores.deviations, chosen):
                if said is not None:
                    show(str(said))
        if side_by_side is not None:
            _show_agreement(side_by_side, every[0].model)
    note(f"scores in {output}; next: wheretune plan {output}")


def _draw(every: list[LayerScores], figures: Path, before: LayerScores | None, found: Agreement | None) -> None:
    from wheretune.show.figures import agreement_figure, save_figure
    from wheretune.support.words import short_name

    for scores in every:
        prefix = "" if len(every) == 1 else f"{scores.scorer.name}-"
        save_figure(scores.plot(scores.choice.layers if scores.choice else ()), figures / f"{prefix}profile.png")
        if scores.similarity is not None:
            save_figure(scores.plot_similarity(), figures / f"{prefix}similarity.png")
        if scores.deviations is not None:
            save_figure(scores.plot_deviations(before), figures / f"{prefix}deviations.png")
    if found is not None:
        chosen = [choice.layers for choice in found.choices]
        title = f"{short_name(every[0].model.name)}: {len(every)} scorers, n = {every[0].n_samples}"
        figure = agreement_figure(found.names, found.correlations, chosen, len(every[0].layers), title)
        save_figure(figure, figures / "scorers.png")


def _show_agreement(found: Agreement, model: ModelInfo) -> None:
    from wheretune.show.tables import table

    numbers = [str(number) for number in range(1, len(found.names) + 1)]
    rows = [
        (f"{number} {name}", *("–" if value is None else f"{value:.2f}" for value in row))
        for number, name, row in zip(numbers, found.names, found.correlations, strict=True)
    ]
    title = "how alike they rank the layers (Spearman; scores that are tuned from the lowest are turned round)"
    show(table(title, ("scorer", *numbers), rows, left=("scorer",)))
    chosen = [
        (
            name,
            str(choice.selector),
            model.named(choice.layers) or "none",
            "–" if choice.confidence is None else f"{choice.confidence.selection:.0%}",
        )
        for name, choice in zip(found.names, found.choices, strict=True)
    ]
    columns = ("scorer", "selector", "layers", "how sure")
    show(table("who would choose what", columns, chosen, left=("scorer", "selector", "layers")))
