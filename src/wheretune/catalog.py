"""The only table from names to classes; everything else passes objects."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wheretune.errors import ConfigError
from wheretune.heads import Concat, Head, LastToken
from wheretune.schedules.static import Static
from wheretune.scorers.base import Scorer
from wheretune.scorers.cosine_centrality import CosineCentrality
from wheretune.scorers.euclidean_centrality import EuclideanCentrality
from wheretune.selectors import (
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Explicit,
    Highest,
    Lowest,
    Random,
    Selector,
    Top,
)
from wheretune.tuners.base import Tuner
from wheretune.tuners.head_only import HeadOnly
from wheretune.tuners.whole_layers import WholeLayers
from wheretune.types import Spec

Table = Mapping[str, Any]


def _table(*classes: Any) -> Table:
    return {made.name: made for made in classes}


SCORERS = _table(CosineCentrality, EuclideanCentrality)
SELECTORS = _table(Highest, Lowest, BlockHighest, BlockLowest, BlockMedian, BlockRandom, Top, Bottom, Random, Explicit)
TUNERS = _table(WholeLayers, HeadOnly)
HEADS = _table(LastToken, Concat)
SCHEDULES = _table(Static)


def nearest(name: str, known: Iterable[str]) -> str:
    """What the user may have meant by `name`, as the end of a message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def build(axis: str, table: Table, spec: Spec) -> Any:
    """The object that `spec` describes.

    Args:
        axis: What the table holds, for the message: `scorer`, `selector` ...
        table: One of the tables above.
        spec: A name and its parameters.

    Raises:
        ConfigError: The name or a parameter is unknown; the nearest known one is named.
    """
    if spec.name not in table:
        raise ConfigError(f"there is no {axis} {spec.name!r}", nearest(spec.name, table))
    try:
        return table[spec.name](**spec.params)
    except TypeError as error:
        raise ConfigError(f"the {axis} {spec.name} does not take these parameters ({error})", "see --help") from error


def scorer(name: str) -> Scorer:
    """The scorer of that name."""
    made: Scorer = build("scorer", SCORERS, Spec(name))
    return made


def selector(name: str, *, k: int, seed: int, layers: tuple[int, ...] = ()) -> Selector:
    """The selector of that name; each takes what it needs of k, seed and layers."""
    fields = getattr(SELECTORS.get(name), "__dataclass_fields__", {})
    offered = {"k": k, "seed": seed, "layers": layers}
    made: Selector = build(
        "selector", SELECTORS, Spec(name, {key: value for key, value in offered.items() if key in fields})
    )
    return made


def tuner(spec: Spec) -> Tuner:
    """The tuner that `spec` describes."""
    made: Tuner = build("tuner", TUNERS, spec)
    return made


def head(spec: Spec) -> Head:
    """The head that `spec` describes."""
    made: Head = build("head", HEADS, spec)
    return made


@dataclass(frozen=True)
class Method:
    """A rival in a comparison: how it selects and how it tunes.

    Attributes:
        selector: Name of the selector, or None to tune no layer.
        tuner: How the layers are tuned.
        every_layer: Take all layers, whatever k is.
    """

    selector: str | None
    tuner: Tuner
    every_layer: bool = False


METHODS: Mapping[str, Method] = {
    "full": Method("bottom", WholeLayers(embeddings=True), every_layer=True),
    "prism": Method("block-highest", WholeLayers()),
    "head-only": Method(None, HeadOnly()),
    **{name: Method(name, WholeLayers()) for name in SELECTORS if name != "explicit"},
}


def method(name: str) -> Method:
    """The rival of that name.

    Raises:
        ConfigError: There is none; the nearest is named.
    """
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", nearest(name, METHODS))
    return METHODS[name]


def needs_scores(name: str) -> bool:
    """Whether a rival must pay for a scoring pass."""
    chosen = method(name)
    return not chosen.every_layer and chosen.selector is not None and bool(SELECTORS[chosen.selector].needs_scores)
