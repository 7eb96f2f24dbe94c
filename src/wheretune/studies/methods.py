"""How a comparison names its methods: `[scorer+][selector+][tuner]`; a preset's short name stands for the first two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wheretune import catalog, scheduling
from wheretune.errors import ConfigError, WheretuneError
from wheretune.recipes.base import FULL, Method
from wheretune.recipes.presets import presets
from wheretune.records.base import Spec
from wheretune.support.log import log

AXES = ("tuner", "selector", "scorer", "schedule", "head")  # a name that two have (random) is the earlier's


def read_all(text: str) -> tuple[Method, ...]:
    """The methods that `text` names, with commas between them, each once.

    Raises:
        ConfigError: There is none, or one cannot be read.
    """
    for printed, known in catalog.SPELLINGS.items():
        text = text.replace(printed, known)  # a method's name is a folder's too
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError("no method is named", "name at least one, such as full or prism", "methods")
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        log.warning("the method %s is named %d times and runs once", name, names.count(name))
    try:
        return tuple(read(name) for name in dict.fromkeys(names))
    except ConfigError as error:  # of whatever axis: it stands among the methods
        raise ConfigError(error.problem, error.remedy, "methods") from error


def read(name: str) -> Method:
    """The method that `name` puts together, its parts in any order and with options after colons, as in `top:k=1+lora`.

    An option of several values has `+` between them, as in `explicit:layers=0+3`, `budget:schedules=static+lift` or
    `lora:targets=query+value`. A map of a name that a part may have too (BERT's `dense`, which is a head here) takes
    more of its path (`output.dense`).

    A scorer without a selector brings the one that its source uses, and a selector without a scorer reads the
    comparison's own. Without a tuner whole layers are tuned. A tuner by itself tunes all layers, and `full` by itself
    the embeddings as well. A schedule or a head may be named too.

    Raises:
        ConfigError: A part is unknown (the nearest is named), or there are two on one axis.
    """
    if name == FULL.name:
        return FULL
    try:
        parts = _parts(name)
    except ConfigError as error:
        raise ConfigError(error.problem, error.remedy, "methods") from error
    tuner = parts.get("tuner", Spec("full"))
    selector, scorer = parts.get("selector"), parts.get("scorer")
    if scorer is not None and selector is None:
        selector = Spec(catalog.find("scorer", scorer.name).card.selector)
    if selector is not None and not catalog.build("tuner", tuner).needs_layers:
        raise ConfigError(f"the method {name} chooses layers and tunes none", f"take {tuner.name} by itself", "methods")
    made = Method(name, tuner, selector, scorer, parts.get("head"), parts.get("schedule", Spec("static")))
    with named(made):
        check(made)
    return made


def check(method: Method) -> None:
    """Builds what a method consists of, so that what cannot be is refused.

    Raises:
        WheretuneError: A name, an option or a value cannot be used.
    """
    tuner = catalog.build("tuner", method.tuner)
    schedule = catalog.build("schedule", method.schedule)
    scheduling.check_schedule(schedule, tuner)
    if method.selector is not None:
        catalog.build("selector", method.selector)
    if method.scorer is not None:
        catalog.build("scorer", method.scorer)
    if method.head is not None:
        catalog.build("head", method.head)


@contextmanager
def named(method: Method) -> Iterator[None]:
    """A refusal inside names the method."""
    try:
        yield
    except WheretuneError as error:
        field = "methods" if error.field in (None, *AXES) else error.field
        raise type(error)(f"the method {method.name}: {error.problem}", error.remedy, field) from error


def _parts(name: str) -> dict[str, Spec]:
    """By axis what a method names."""
    known = presets()
    found: dict[str, Spec] = {}
    for part in _pieces(name):
        if part in known:
            given = {"scorer": known[part].scorer, "selector": known[part].selector}
        else:
            axis = _axis(part)
            given = {axis: catalog.written(axis, part)}
        for axis, spec in given.items():
            if axis in found:
                raise ConfigError(
                    f"the method {name} names two {axis}s, {found[axis].name} and {spec.name}", "name one", "methods"
                )
            found[axis] = spec
    return found


def _pieces(name: str) -> list[str]:
    """The parts of a method; a `+` inside an option of several values (`explicit:layers=0+3`) separates none."""
    found: list[str] = []
    for piece in name.split("+"):
        if found and _goes_on(found[-1], piece):
            found[-1] += f"+{piece}"
        else:
            found.append(piece)
    return found


def _goes_on(part: str, piece: str) -> bool:
    """Whether a piece is one more value of the option that a part ends with, and no part of its own."""
    option, equals, _ = part.rpartition(":")[2].partition("=")
    if not equals:
        return False
    if option == "schedules":  # the budget's: these names are parts elsewhere
        return piece in catalog.names("schedule")
    named = piece.split(":")[0] in (*presets(), *(name for axis in AXES for name in catalog.names(axis)))
    value = catalog.written(_axis(part), part).params.get(option)
    return not named and (isinstance(value, tuple) or option == "targets")


def _axis(part: str) -> str:
    """The axis that a part of a method is on."""
    word = part.split(":")[0]
    for axis in AXES:
        if word in catalog.names(axis):
            return axis
    known = [*presets(), *(name for axis in AXES for name in catalog.names(axis))]
    raise ConfigError(f"there is no method {part!r}", catalog.nearest(word, known), "methods")


def needs_scores(method: Method) -> bool:
    """Whether a method chooses its layers by scores, and so must pay for them."""
    return method.selector is not None and bool(catalog.find("selector", method.selector.name).needs_scores)


def selector_of(method: Method, *, k: int, seed: int) -> Spec | None:
    """What chooses a method's layers in one run; None where no layer is tuned.

    Args:
        method: The method.
        k: Layers to choose, where the method does not say so itself.
        seed: The run's, for a selector that draws.
    """
    if method.selector is not None:
        offered = {"seed": seed} if "ratio" in method.selector.params else {"seed": seed, "k": k}
        return catalog.filled("selector", method.selector, **offered)
    return Spec("explicit", {"every": True}) if catalog.find("tuner", method.tuner.name).needs_layers else None
