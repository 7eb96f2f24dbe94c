"""The form of a recipe; the papers' own stand in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.records.base import Spec, record


@record
class Method:
    """One way to fine-tune: a choice on every axis, under the name that tables and folders give it.

    Attributes:
        name: Unique within a comparison.
        tuner: How the layers are tuned.
        selector: What chooses the layers; None tunes all of them (or none, with a tuner that tunes no layer). It may
            leave out `k` and `seed`: a comparison fills them in.
        scorer: What scores the layers; None takes the comparison's own where the selector reads scores.
        head: What sits on top; None takes the comparison's own.
        schedule: When the layers train.
    """

    name: str
    tuner: Spec
    selector: Spec | None = None
    scorer: Spec | None = None
    head: Spec | None = None
    schedule: Spec = field(default_factory=lambda: Spec("static"))

    def __str__(self) -> str:
        return self.name


FULL = Method("full", Spec("full", {"embeddings": True}))  # full fine-tuning: all layers and the embeddings


def method(
    *,
    scorer: Spec | None = None,
    selector: Spec | None = None,
    tuner: Spec | None = None,
    head: Spec | None = None,
    schedule: Spec | None = None,
) -> Method:
    """A method under the name that the command line would read it by; whole layers are tuned by default."""
    named = [spec for spec in (scorer, selector, tuner, schedule) if spec is not None]
    name = "+".join(map(catalog.text_of, named))
    return Method(name, tuner or Spec("full"), selector, scorer, head, schedule or Spec("static"))


@dataclass(frozen=True)
class Study:
    """How a paper compares.

    Attributes:
        rivals: What its own methods are compared with.
        reference: Name of the method that speed-ups are measured against.
        k: Layers that every method tunes which does not say so itself.
        ratio: The same as a share of the model's layers.
        seeds: One run per seed.
        learning_rates: Candidates for each method; None: the paper (or our copy) does not say.
        settings: By field of `TrainSettings`, what differs from its defaults.
    """

    rivals: tuple[Method, ...]
    reference: str = FULL.name
    k: int | None = None
    ratio: float | None = None
    seeds: tuple[int, ...] | None = None
    learning_rates: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PrintedTable:
    """Numbers as a paper printed them: to be shown beside ours, never to be expected of ours.

    Attributes:
        where: The table or section they stand in.
        columns: What the columns are.
        rows: As printed, each as long as the columns.
    """

    where: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ConfigError(f"{self.where} has {len(self.columns)} columns, and a row {wrong[0]}", "mend the row")


def printed(where: str, text: str) -> PrintedTable:
    """A table from lines with `|` between the cells, the columns' names first."""
    head, *body = [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]
    return PrintedTable(where, head, tuple(body))


@dataclass(frozen=True)
class Recipe:
    """A paper's choice on the axes, what it is compared with, how it trains, and the numbers it printed.

    Attributes:
        name: Its name in the catalog.
        paper: Which paper.
        methods: The paper's own, the main one first.
        study: What these are compared with, and how.
        printed: The numbers it printed.
        decided: What the paper leaves open, and what we took.
        causal: Whether it is for decoders; None: for both.
        preset: The short name of the main method's scorer, selector and number of layers, where it has one.
    """

    name: str
    paper: str
    methods: tuple[Method, ...]
    study: Study
    printed: tuple[PrintedTable, ...]
    decided: str
    causal: bool | None = None
    preset: str | None = None

    @property
    def defaults(self) -> dict[str, str]:
        """By field of a comparison, what the recipe fills in, as text that a command line reads."""
        study, head = self.study, self.methods[0].head
        given: dict[str, Any] = {
            "methods": ",".join(one.name for one in (*study.rivals, *self.methods)),
            "reference": study.reference,
            "head": None if head is None else catalog.text_of(head),
            "k": study.k,
            "ratio": study.ratio,
            "seeds": study.seeds,
            "learning_rates": study.learning_rates,
            **study.settings,
        }
        return {key: _text(value) for key, value in given.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
