"""The only table from names to classes; everything else passes objects."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any

from wheretune.data import log
from wheretune.errors import ConfigError
from wheretune.heads import Concat, Head, LastToken
from wheretune.probing import LayerProbe
from wheretune.recipes.base import Recipe
from wheretune.recipes.cka_lora import DECODER, ENCODER
from wheretune.recipes.olft import OLFT
from wheretune.schedules.static import Static
from wheretune.scorers.base import Scorer
from wheretune.scorers.cka import CKA
from wheretune.scorers.controls import Depth, RandomScores
from wheretune.scorers.cosine_centrality import CosineCentrality
from wheretune.scorers.euclidean_centrality import EuclideanCentrality
from wheretune.scorers.feature_variance import FeatureVariance
from wheretune.scorers.fisher import Fisher
from wheretune.scorers.gradient_norm import GradientNorm
from wheretune.scorers.io_cosine import IOCosine
from wheretune.scorers.semantic_deviation import SemanticDeviation
from wheretune.scorers.weight_snr import WeightSNR
from wheretune.selectors import (
    AdaptiveSelector,
    Auto,
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Budget,
    Explicit,
    Highest,
    Lowest,
    MiddleBest,
    Near,
    Random,
    Selector,
    Suffix,
    Top,
)
from wheretune.tuners.adapter import Adapter
from wheretune.tuners.base import Tuner
from wheretune.tuners.bias import Bias
from wheretune.tuners.head_only import HeadOnly
from wheretune.tuners.low_rank import IA3, AdaLoRA, DoRA, LoRA, PiSSA
from wheretune.tuners.prefix import Prefix
from wheretune.tuners.whole_layers import WholeLayers
from wheretune.types import Spec

Table = Mapping[str, Any]


def _table(*classes: Any) -> Table:
    return {made.name: made for made in classes}


def _with_plugins(own: Table, group: str) -> Table:
    """Our own, and those that other packages offer under the entry-point group `group`; ours cannot be replaced."""
    offered = {}
    for point in entry_points(group=group):
        try:
            offered[point.name] = point.load()
            _ = offered[point.name].card.formula
        except Exception as error:  # another package's fault must not keep ours from running
            offered.pop(point.name, None)
            log.warning("%s from the package of %s cannot be loaded: %s", point.name, point.value, error)
    return {**offered, **own}


SCORERS = _with_plugins(
    _table(
        CosineCentrality,
        EuclideanCentrality,
        IOCosine,
        CKA,
        SemanticDeviation,
        GradientNorm,
        Fisher,
        LayerProbe,
        FeatureVariance,
        WeightSNR,
        RandomScores,
        Depth,
    ),
    "wheretune.scorers",
)
SELECTORS = _table(
    Highest,
    Lowest,
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    MiddleBest,
    Suffix,
    Top,
    Bottom,
    Random,
    Explicit,
    Budget,
    Auto,
)
TUNERS = _table(WholeLayers, HeadOnly, LoRA, PiSSA, DoRA, AdaLoRA, IA3, Adapter, Prefix, Bias)
HEADS = _table(LastToken, Concat)
SCHEDULES = _table(Static)
RECIPES: Mapping[str, Recipe] = _table(ENCODER, DECODER, OLFT)


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


def _preset(recipe: Recipe) -> dict[str, Any]:
    """By option what a recipe scores with and chooses by; `causal` is the kind of model it is meant for."""
    select, _, k = recipe.selector.partition(":k=")
    ratio = recipe.options.get("ratio")
    found = {"k": int(k) if k else None, "ratio": float(ratio) if ratio else None, "causal": recipe.causal}
    return {"scorer": recipe.scorer, "select": select, **{key: v for key, v in found.items() if v is not None}}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "prism": {"scorer": "cosine-centrality", "select": "block-highest", "k": 3},
    "cka-encoder": _preset(ENCODER),
    "cka-decoder": _preset(DECODER),
    "salf": {"scorer": "semantic-deviation:variant=cosine", "select": "suffix", "causal": True},
    "olft": _preset(OLFT),
}


def _written(axis: str, table: Table, text: str, options: Iterable[str] = ()) -> Any:
    """The object that `text` names: a name, and options after colons, as in `lora:r=8:targets=all-linear`.

    Args:
        axis: What the table holds, for the message.
        table: One of the tables above.
        text: What the user wrote.
        options: More options, `name=value` each.

    Raises:
        ConfigError: The name or an option is unknown, or a value cannot be used.
    """
    name, *inside = text.split(":")
    if name not in table:
        raise ConfigError(f"there is no {axis} {name!r}", nearest(name, table))
    kinds = {field.name: field.type for field in fields(table[name])} if is_dataclass(table[name]) else {}
    params: dict[str, Any] = {}
    for option in [*inside, *options]:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"the {axis} option {option!r} has no value", "write name=value")
        if key not in kinds:
            what = nearest(key, kinds) if kinds else "it has none"
            raise ConfigError(f"the {axis} {name} has no option {key!r}", what)
        try:
            params[key] = _READERS.get(kinds[key], str)(value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"the {axis} option {key} is {value!r}", "give a value of its kind") from error
    return build(axis, table, Spec(name, params))


_READERS: Mapping[Any, Any] = {
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
    Tuner: lambda text: tuner(Spec(text)),
    Head: lambda text: head(Spec(text)),
}


def scorer(text: str) -> Scorer | LayerProbe:
    """The scorer that `text` names, with its options, as in `cka:estimator=debiased`.

    Raises:
        ConfigError: The name or an option is unknown, or a value cannot be used.
    """
    made: Scorer | LayerProbe = _written("scorer", SCORERS, text)
    return made


def selector(
    name: str, *, k: int, seed: int, layers: tuple[int, ...] = (), near: float | None = None, **budget: Any
) -> Selector | AdaptiveSelector:
    """The selector of that name; each takes what it needs of k, seed, layers, `share`, `of` and `prefer`.

    Args:
        name: In `SELECTORS`.
        k: Layers to choose.
        seed: Of random draws.
        layers: For `explicit`.
        near: Let near-equal scores prefer the higher layer, within this share of the profile's range.
        budget: For `budget`.

    Raises:
        ConfigError: The name is unknown, or `budget` lacks its share.
        PlanError: The selector does not go with `near`.
    """
    fields = getattr(SELECTORS.get(name), "__dataclass_fields__", {})
    offered = {"k": k, "seed": seed, "layers": layers, **budget}
    chosen = Spec(name, {key: value for key, value in offered.items() if key in fields})
    made: Selector | AdaptiveSelector = build("selector", SELECTORS, chosen)
    return made if near is None else Near(made, near)


def tuner(spec: Spec) -> Tuner:
    """The tuner that `spec` describes."""
    made: Tuner = build("tuner", TUNERS, spec)
    return made


def tuner_from(text: str, options: Iterable[str] = ()) -> Tuner:
    """The tuner that `text` names, with its options, as in `lora:r=8:targets=all-linear`.

    Args:
        text: What the user wrote.
        options: More options, `name=value` each.

    Raises:
        ConfigError: The name or an option is unknown, or a value cannot be used.
    """
    made: Tuner = _written("tuner", TUNERS, text, options)
    return made


def head(spec: Spec) -> Head:
    """The head that `spec` describes."""
    made: Head = build("head", HEADS, spec)
    return made


@dataclass(frozen=True)
class Method:
    """A rival in a comparison: how it scores, selects and tunes.

    Attributes:
        scorer: What it scores with, as written for --scorer; None where nothing is scored, or where the comparison's
            own scorer is meant.
        selector: Name of the selector, or None to tune no layer.
        tuner: How the layers are tuned.
        every_layer: Take all layers, whatever k is.
        k: How many layers, where the method itself says so.
    """

    scorer: str | None
    selector: str | None
    tuner: Tuner
    every_layer: bool = False
    k: int | None = None

    @property
    def needs_scores(self) -> bool:
        """Whether it must pay for a scoring pass."""
        return not self.every_layer and self.selector is not None and bool(SELECTORS[self.selector].needs_scores)


FREE = Depth.name  # scores that cost no forward pass, for a method that needs the list of layers only
SHORT: Mapping[str, str] = {  # the papers' names for what they put together
    "prism": "cosine-centrality+block-highest",
    "olft": "layer-probe+middle-best:k=1",
}


def method(name: str) -> Method:
    """The rival that `name` puts together, in any order: `[scorer+][selector+][tuner]`.

    A scorer without a selector brings the one that its source uses, a selector without a scorer reads the comparison's
    own, and `top:k=1` has a k of its own. Without a tuner whole layers are tuned; a tuner by itself tunes all layers,
    and `full` the embeddings as well.

    Raises:
        ConfigError: A part is unknown (the nearest is named), or there are two of a kind.
    """
    parts = [part for short in name.split("+") for part in SHORT.get(short, short).split("+")]
    found: dict[str, str] = {}
    for part in parts:
        word = part.split(":")[0]
        tables = {"tuner": TUNERS, "selector": SELECTORS, "scorer": SCORERS}
        axis = next((axis for axis, table in tables.items() if word in table), None)
        if axis is None or word == "explicit":
            raise ConfigError(f"there is no method {part!r}", nearest(part, [*SHORT, *TUNERS, *SELECTORS, *SCORERS]))
        if axis in found:
            raise ConfigError(f"the method {name} names two {axis}s, {found[axis]} and {part}", "name one")
        found[axis] = part
    chooses = "selector" in found or "scorer" in found
    made = tuner_from(found["tuner"]) if "tuner" in found else WholeLayers()
    if not made.needs_layers:
        if chooses:
            raise ConfigError(f"the method {name} chooses layers and tunes none", f"take {made.name} by itself")
        return Method(None, None, made)
    if not chooses:
        return Method(None, "bottom", WholeLayers(embeddings=True) if name == "full" else made, every_layer=True)
    if "selector" not in found:
        return Method(found["scorer"], scorer(found["scorer"]).card.selector, made)
    selected, _, option = found["selector"].partition(":")
    if option and not (option.startswith("k=") and option[2:].isdecimal()):
        raise ConfigError(f"the method {name} has the option {option!r}", "a selector takes k alone, as in top:k=1")
    return Method(found.get("scorer"), selected, made, k=int(option[2:]) if option else None)
