"""How records look: as tables in a terminal, as HTML in a notebook, as figures."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from functools import singledispatch
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wheretune import catalog, scheduling
from wheretune.errors import ConfigError
from wheretune.records.cost import Cost
from wheretune.records.plan import Plan
from wheretune.records.scores import LayerScores
from wheretune.show.figures import heatmap_figure, profile_figure, violin_figure
from wheretune.show.tables import profile_table, table
from wheretune.support.words import count, short, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTEBOOK_WIDTH = 120  # characters
PICTURE_DPI = 90


@singledispatch
def terminal(record: Any) -> RenderableType:
    """A record as rich prints it."""
    return Text(str(record))


@terminal.register
def _(scores: LayerScores, chosen: tuple[int, ...] = ()) -> Table:
    title = f"{scores.scorer.name} of {scores.model}, n = {scores.n_samples}"
    names = [scores.model.called(layer.index) for layer in scores.layers]
    return profile_table(title, scores.values.tolist(), scores.stds.tolist(), chosen, names)


@terminal.register
def plan_table(plan: Plan, open_head: bool = False) -> Group:
    """A plan as a table; the head is said to be open where tune may keep a checkpoint's own in its place."""
    rows = [
        ("layers", plan.model.named(plan.layers) or "none"),
        ("of", str(plan.model)),
        ("chosen by", str(plan.selector)),
        *([("because", plan.reason)] if plan.reason is not None else []),
        *([("how sure", plan.confidence.in_words(plan.model.called))] if plan.confidence is not None else []),
        ("tuner", str(plan.tuner)),
        ("head", f"{plan.head} (tune settles it)" if open_head else str(plan.head)),
        ("schedule", str(plan.schedule)),
        *([] if (steps := steps_per_layer(plan)) is None else [("steps", steps)]),
        *([] if (saved := scheduling.backward_saved(plan)) is None else [("cost saving", saved_in_words(saved, plan))]),
        ("trainable", f"{count(plan.cost.trainable_parameters)} parameters ({plan.cost.share:.1%})"),
        ("expected", str(plan.cost)),
    ]
    return Group(table("plan", ("", "choice"), rows, left=("", "choice")))


def saved_in_words(saved: float, plan: Plan) -> str:
    """The share of the backward pass that a schedule saves, and over how many texts."""
    over = f"{plan.cost.texts} texts" if plan.cost.texts else f"{scheduling.LOOKED_AT} steps"
    return f"{saved:.3f} of the backward pass, as SALF counts it: layers below the lowest that trains, over {over}"


PARTS = {
    "layer": "of the steps",
    "tensor": "of the tensors, in each step",
    "row": "of the layers' maps, in each step",
}


def steps_per_layer(plan: Plan) -> str | None:
    """In which share of the steps each chosen layer is expected to train; None where the schedule does not move."""
    if plan.schedule.name not in catalog.names("schedule"):  # of a package that is not installed here
        return None
    schedule = catalog.build("schedule", plan.schedule)
    if not schedule.moves:
        return None
    shares = schedule.expected(len(plan.layers))
    what = PARTS[schedule.unit]
    if len(set(shares)) == 1:
        return f"each layer trains in {shares[0]:.1%} {what}" if schedule.unit == "layer" else f"{shares[0]:.1%} {what}"
    names = map(plan.model.called, plan.layers)
    return ", ".join(f"{name}: {share:.0%}" for name, share in zip(names, shares, strict=True)) + f" {what}"


@terminal.register
def _(cost: Cost) -> Group:
    flops = [
        (
            line.name,
            *(short(part / 1e9) for part in (*dataclasses.astuple(line.flops), line.flops.total)),
            "–" if line.speed_up is None else f"{line.speed_up:.2f}x",
        )
        for line in cost.lines
    ]
    memory = [
        (line.name, *(short(part / 1e6) for part in (*dataclasses.astuple(line.memory), line.memory.total)))
        for line in cost.lines
    ]
    passes = ("", "forward", "input gradients", "weight gradients", "all", "speed-up")
    kinds = ("", "weights", "gradients", "optimizer", "activations", "cache", "all")
    return Group(
        table(f"GFLOP per step, for a text of {short(cost.tokens)} tokens", passes, flops, left=("",)),
        table(f"MB, for batches of {cost.batch_size} texts", kinds, memory, left=("",)),
        Text(f"with everything, making the cache counted: {cost}, by FLOPs"),
        *([] if cost.measured is None else [Text(str(cost.measured))]),
    )


def notebook(record: Any) -> dict[str, str]:
    """A record as a notebook shows it: HTML, and plain text beside it."""
    return {"text/html": html(record), "text/plain": _written(record).export_text()}


def html(record: Any, *more: str) -> str:
    """A record as HTML that loads nothing: its picture, where it has one, and its table. All text in it is escaped.

    Args:
        record: What is shown.
        more: Lines below its table.
    """
    page = _written(record, *more).export_html(
        inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>"
    )
    return picture(record) + page


@singledispatch
def picture(record: Any) -> str:
    """The figure of a record as an `img`; nothing for a record that has none."""
    return ""


@picture.register
def _(scores: LayerScores) -> str:
    drawn = BytesIO()
    figure = profile_of(scores, scores.choice.layers if scores.choice is not None else ())
    figure.savefig(drawn, format="png", dpi=PICTURE_DPI)
    words = escape(f"score profile: {scores.scorer.name} of {scores.model.name}, n = {scores.n_samples}")
    return f'<img alt="{words}" src="data:image/png;base64,{b64encode(drawn.getvalue()).decode()}">'


def _written(record: Any, *more: str) -> Console:
    """A console that has printed a record, and some lines below it."""
    console = Console(record=True, file=StringIO(), width=NOTEBOOK_WIDTH, force_jupyter=False)
    console.print(terminal(record))
    for line in more:
        console.print(Text(line))
    return console


# --- figures -------------------------------------------------------------------------------------


def profile_of(scores: LayerScores, chosen: tuple[int, ...] = (), blocks: tuple[range, ...] = ()) -> Figure:
    """The score profile with error bars; `chosen` layers are marked and `blocks` shaded."""
    return profile_figure(
        scores.values.tolist(),
        scores.stds.tolist(),
        label=scores.scorer.name.replace("-", " "),
        title=f"{short_name(scores.model.name)}: {scores.scorer.name}, n = {scores.n_samples}",
        blocks=blocks,
        chosen=chosen,
        names=_names(scores),
    )


def _names(scores: LayerScores) -> list[str] | None:
    """What the layers are called, where that is more than their index."""
    names = [scores.model.called(layer.index) for layer in scores.layers]
    return None if names == [str(layer.index) for layer in scores.layers] else names


def similarity_of(scores: LayerScores) -> Figure:
    """The mean similarity of every pair of layers as a heatmap.

    Raises:
        ConfigError: The scorer compares no pairs of layers.
    """
    if scores.similarity is None:
        raise ConfigError(f"{scores.scorer.name} has no similarity matrix", "use a centrality scorer")
    return heatmap_figure(
        scores.similarity,
        label=f"mean similarity ({scores.scorer.name})",
        title=f"{short_name(scores.model.name)}: every pair of layers",
        names=_names(scores),
        parts=tuple(scores.model.stacks.values()),
    )


def deviations_of(scores: LayerScores, before: LayerScores | None = None) -> Figure:
    """The deviations of every latent space as violins, and those `before` tuning.

    Raises:
        ConfigError: These scores, or those before, are not semantic deviations, or the models differ in layers.
    """
    for one in (scores, before):
        if one is not None and one.deviations is None:
            raise ConfigError(f"{one.scorer.name} has no deviations", "use the scorer semantic-deviation")
    if before is not None and len(before.layers) != len(scores.layers):
        raise ConfigError("the scores before are of a model with other layers", "score the same model")
    if before is not None and before.scorer != scores.scorer:
        raise ConfigError(f"the scores before are by {before.scorer}, these by {scores.scorer}", "score alike")
    shown = [("", scores)] if before is None else [("before tuning", before), ("after tuning", scores)]
    return violin_figure(
        [(name, s.deviations.counts, s.deviations.means, s.deviations.highest) for name, s in shown if s.deviations],
        label="deviation from the label's semantic base",
        title=f"{short_name(scores.model.name)}: every latent space, n = {scores.n_samples}",
    )
