"""The options that choose on the axes: which layers, and how they are tuned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from wheretune.cli.config import one_count, read_preset
from wheretune.cli.groups import Group, group, option, refuse, was_given
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.base import Spec


def count_of(text: str) -> int | None:
    """A number of layers; `auto` is None.

    Raises:
        ConfigError: It is no whole number.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--k is {text!r}", "give a whole number, or auto") from error


@group
class CountOptions(Group):
    """How many layers are tuned."""

    panel: ClassVar[str] = "Choice"
    k: Annotated[
        int | None,
        option(
            "--k",
            "Layers to tune, or auto: a quarter of them, rounded up; with 2,000 labelled texts or more, tune and plan "
            "take all above the lowest of these too.",
            default="auto",
            metavar="N|auto",
            parser=count_of,
        ),
    ] = None
    ratio: Annotated[
        float | None,
        option("--ratio", "In place of --k: the share of the layers to tune, rounded down.", default="none"),
    ] = None


@group
class ChoiceOptions(CountOptions):
    """Which layers are tuned."""

    preset: Annotated[
        str | None,
        option("--preset", "A paper's scorer, selector and number of layers: prism, cka-encoder, cka-decoder, salf or "
               "olft; options given beside it have the last word.",
               default="none", callback=read_preset, is_eager=True),
    ] = None  # fmt: skip
    select: Annotated[
        str | None,
        option("--select", "What chooses by the scores; see `wheretune selectors`. Options follow colons: highest:k=3.",
               default="what the scorer's source uses", axis="selector"),
    ] = None  # fmt: skip
    near: Annotated[
        float | None,
        option("--near", "Take a higher layer, which costs less, for one whose score is better by no more than this "
               "share of the profile's range.", default="exact scores decide"),
    ] = None  # fmt: skip
    budget: Annotated[
        float, option("--budget", "For --select budget: the share of full fine-tuning that may be spent.")
    ] = 0.5
    budget_of: Annotated[
        Literal["compute", "parameters"], option("--budget-of", "For --select budget: what is spent.")
    ] = "compute"
    layers: Annotated[
        str,
        option("--layers", "For --select explicit: the layers from 0, such as 1,4, or all; of an encoder-decoder such "
               "as encoder.0,decoder.3.", default="none"),
    ] = ""  # fmt: skip
    stack: Annotated[
        Literal["encoder", "decoder", "both"],
        option("--stack", "Of an encoder-decoder: the stack whose layers are tuned, or --k of each."),
    ] = "both"

    @property
    def asked(self) -> str | None:
        """The selector as it was asked for; None for the one that the scorer's source uses."""
        return self.select or ("explicit" if self.layers else None)

    def through(self, context: typer.Context, schedule: Spec) -> ChoiceOptions:
        """The same, or all layers, where a schedule moves through layers and it was not said which."""
        from wheretune import catalog

        said = any(was_given(context, name) for name in ("select", "k", "ratio", "near", "layers", "stack", "preset"))
        return self if said or not catalog.build("schedule", schedule).moves else replace(self, layers="all")

    def checked(self, context: typer.Context, scorer: Spec, seed: int) -> ChoiceOptions:
        """The same with one way of saying how many layers; what can be known to be wrong without the model is refused.

        Raises:
            ConfigError: A name or an option is unknown, or an option would have no effect.
            PlanError: A number is out of range.
        """
        from wheretune import catalog
        from wheretune.records.data import check_seed

        check_seed(seed)
        if self.layers and self.asked is not None and self.asked.split(":")[0] != "explicit":
            raise ConfigError("--layers goes with --select explicit", "drop the one or add the other")
        asked = None if self.asked is None else catalog.written("selector", self.asked)
        if asked is None or asked.name != "budget":
            refuse(context, ("budget", "budget_of"), "a selector other than budget")
        if asked is not None and "k" not in catalog.filled("selector", asked, k=1).params:
            refuse(context, ("k", "ratio"), f"--select {self.asked}")
        if asked is not None and {"k", "ratio"} & set(asked.params):
            refuse(context, ("k", "ratio"), f"--select {self.asked}, which says it")
        k, ratio = one_count(context, self.k, self.ratio)
        settled = replace(self, k=k, ratio=ratio)
        catalog.build("selector", settled.selector(scorer, seed))
        return settled

    def selector(self, scorer: Spec, seed: int) -> Spec:
        """The selector for layers that are scored by `scorer`.

        Args:
            scorer: Brings the selector of its source, where none was asked for.
            seed: Seed for a random choice.

        Raises:
            ConfigError: A name or an option is unknown.
        """
        from wheretune import catalog
        from wheretune.records.base import Spec

        card = catalog.find("scorer", scorer.name).card
        every = self.layers == "all"
        spec = catalog.filled(
            "selector",
            catalog.written("selector", self.asked or card.selector),
            k=self.k,
            ratio=self.ratio,
            seed=seed,
            layers=None if every else layers_named(self.layers),
            every=every or None,
            share=self.budget,
            of=self.budget_of,
            prefer=card.direction,
        )
        if self.near is not None:
            spec = Spec("near", {"selector": spec, "tolerance": self.near})
        return spec if self.stack == "both" else Spec("of-stack", {"selector": spec, "stack": self.stack})


@group
class TuningOptions(Group):
    """How the chosen layers are tuned."""

    panel: ClassVar[str] = "Choice"
    tuner: Annotated[
        str,
        option("--tuner", "How layers are tuned; see `wheretune tuners`. Options follow colons: lora:r=8.",
               axis="tuner"),
    ] = "full"  # fmt: skip
    tuner_option: Annotated[
        list[str] | None,
        option("--tuner-option", "An option of the tuner, such as r=16 or targets=all-linear; may be repeated.",
               default="the papers'", metavar="NAME=VALUE"),
    ] = None  # fmt: skip
    head: Annotated[
        str | None,
        option("--head", "What sits on top: last-token (linear on the last layer), dense (two maps there), concat (MLP "
               "on all layers) or lm (a language model's own output matrix, frozen).", default="the task's",
               axis="head"),
    ] = None  # fmt: skip
    schedule: Annotated[
        str,
        option("--schedule", "When the layers train; see `wheretune schedules`. Options follow colons: lisa:every=20. "
               "One that moves goes through all layers, unless some are chosen.", axis="schedule"),
    ] = "static"  # fmt: skip

    def specs(self) -> dict[str, Any]:
        """By axis, what was chosen, with all its options.

        Raises:
            ConfigError: A name or an option is unknown, a value cannot be used, or the schedule cannot serve the tuner.
        """
        from wheretune import catalog, scheduling

        tuner, schedule = whole("tuner", self.tuner, self.tuner_option or ()), whole("schedule", self.schedule)
        scheduling.check_schedule(catalog.build("schedule", schedule), catalog.build("tuner", tuner))
        return {"tuner": tuner, "head": None if self.head is None else whole("head", self.head), "schedule": schedule}


def whole(axis: str, text: str, options: Collection[str] = ()) -> Spec:
    """What `text` names on an axis, with all its options, those that were not given included.

    Raises:
        ConfigError: A name or an option is unknown, or a value cannot be used.
    """
    from wheretune import catalog
    from wheretune.records.base import Spec

    return Spec.of(catalog.read(axis, text, options))


def scorers_of(text: str) -> list[Spec]:
    """The scorers that are named with commas between them.

    Raises:
        ConfigError: None is named, one is named twice or unknown, or an option cannot be used.
    """
    from wheretune import catalog

    specs = [catalog.written("scorer", name.strip()) for name in text.split(",") if name.strip()]
    for spec in specs:
        catalog.build("scorer", spec)
    if not specs or len({spec.name for spec in specs}) < len(specs):
        raise ConfigError(f"--scorer is {text!r}", "name at least one scorer, and each once")
    return specs


def scorer_of(text: str) -> Spec:
    """The one scorer that is named.

    Raises:
        ConfigError: Several are named, or the name or an option cannot be used.
    """
    specs = scorers_of(text)
    if len(specs) > 1:
        raise ConfigError(f"--scorer is {text!r}", "name one")
    return specs[0]


def needs_of(scorers: Collection[Spec]) -> set[str]:
    """What some scorers need to be given."""
    from wheretune import catalog

    return {need for spec in scorers for need in catalog.find("scorer", spec.name).card.needs}


SAYING = ("next-token", "generation")  # tasks whose words are learned


def refuse_unread(context: typer.Context, needs: Collection[str]) -> None:
    """Refuses options that no scorer with these needs reads.

    Raises:
        ConfigError: One was given.
    """
    if "states" not in needs:
        unread: tuple[str, ...] = ("pooling", "last_state", "standardise", "until_settled")
        refuse(context, unread, "a scorer that reads no states")
    if "language-model" not in needs:
        said = context.params.get("source_column") or context.params.get("template")
        read = said or str(context.params.get("task_name")).split(":")[0] in SAYING  # the task reads them itself
        unread = ("before",) if read else ("verbalizer", "target_column", "before")
        refuse(context, unread, "a scorer other than semantic-deviation")


def layers_named(text: str) -> tuple[int | str, ...]:
    """Layers with commas between them.

    Raises:
        ConfigError: One is no layer's name.
    """
    from wheretune.records.model import layer_names

    try:
        return layer_names(text)
    except ValueError as error:
        way = "give numbers with commas between them, or such as encoder.0,decoder.3"
        raise ConfigError(f"--layers is {text!r}", way) from error


def numbers(text: str, kind: Any, flag: str) -> tuple[Any, ...]:
    """Numbers with commas between them.

    Raises:
        ConfigError: One is no number.
    """
    try:
        return tuple(kind(part) for part in str(text).split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}", "give numbers with commas between them") from error
