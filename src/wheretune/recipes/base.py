"""The form of a recipe; the papers' own stand in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reference:
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
        assert all(len(row) == len(self.columns) for row in self.rows), self.where


@dataclass(frozen=True)
class Recipe:
    """A paper's choice on the five axes, what it is compared with, and how it trains.

    Attributes:
        name: What `compare --recipe` calls it.
        paper: Which paper.
        scorer: As for --scorer.
        selector: As in a method: a name, and `:k=1` where the paper's number is fixed.
        tuners: As for --tuner; the paper's method is compared with each.
        head: Name of the head.
        schedule: Name of the schedule.
        rivals: Methods that the paper compares with, in which `{tuner}` stands for each tuner.
        options: Other options of `compare`, as far as the paper (or our copy of it) says them.
        causal: Whether it is for decoders; None: for both.
        references: The numbers it printed.
        decided: What the paper leaves open, and what we took.
    """

    name: str
    paper: str
    scorer: str
    selector: str
    tuners: tuple[str, ...]
    head: str
    schedule: str
    rivals: tuple[str, ...]
    references: tuple[Reference, ...]
    decided: str
    options: Mapping[str, str] = field(default_factory=dict)
    causal: bool | None = None

    @property
    def defaults(self) -> dict[str, str]:
        """By name, the options of `compare` that the recipe fills in."""
        own = "{scorer}+{selector}+{tuner}"
        methods = [
            form.format(tuner=tuner, scorer=self.scorer, selector=self.selector)
            for tuner in self.tuners
            for form in (*self.rivals, own)
        ]
        return {"methods": ",".join(methods), "head": self.head, **self.options}
