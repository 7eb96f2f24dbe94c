"""The only table from names to things: every row says where a thing is defined, and it is opened at first use.

A row is `"name": "module:Name"`. Another package adds rows of its own under the entry-point group `wheretune.AXISs`
(`wheretune.scorers`, `wheretune.tuners` ...); ours cannot be replaced. Everything but this table passes objects.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.support.log import log

ROWS: Mapping[str, Mapping[str, str]] = {
    "scorer": {
        "cosine-centrality": "wheretune.scorers.cosine_centrality:CosineCentrality",
        "euclidean-centrality": "wheretune.scorers.euclidean_centrality:EuclideanCentrality",
        "io-cosine": "wheretune.scorers.io_cosine:IOCosine",
        "cka": "wheretune.scorers.cka:CKA",
        "semantic-deviation": "wheretune.scorers.semantic_deviation:SemanticDeviation",
        "gradient-norm": "wheretune.scorers.gradient_norm:GradientNorm",
        "fisher": "wheretune.scorers.fisher:Fisher",
        "layer-probe": "wheretune.trials:LayerProbe",
        "feature-variance": "wheretune.scorers.feature_variance:FeatureVariance",
        "weight-snr": "wheretune.scorers.weight_snr:WeightSNR",
        "random": "wheretune.scorers.controls:RandomScores",
        "depth": "wheretune.scorers.controls:Depth",
    },
    "selector": {
        "highest": "wheretune.selectors.ranked:Highest",
        "lowest": "wheretune.selectors.ranked:Lowest",
        "block-highest": "wheretune.selectors.blocks:BlockHighest",
        "block-lowest": "wheretune.selectors.blocks:BlockLowest",
        "block-median": "wheretune.selectors.blocks:BlockMedian",
        "block-random": "wheretune.selectors.blocks:BlockRandom",
        "middle-best": "wheretune.selectors.ranked:MiddleBest",
        "suffix": "wheretune.selectors.ranked:Suffix",
        "top": "wheretune.selectors.fixed:Top",
        "bottom": "wheretune.selectors.fixed:Bottom",
        "random": "wheretune.selectors.fixed:Random",
        "explicit": "wheretune.selectors.fixed:Explicit",
        "budget": "wheretune.selectors.budget:Budget",
        "auto": "wheretune.selectors.auto:Auto",
    },
    "tuner": {
        "full": "wheretune.tuners.whole_layers:WholeLayers",
        "head-only": "wheretune.tuners.head_only:HeadOnly",
        "lora": "wheretune.tuners.low_rank:LoRA",
        "pissa": "wheretune.tuners.low_rank:PiSSA",
        "dora": "wheretune.tuners.low_rank:DoRA",
        "adalora": "wheretune.tuners.adalora:AdaLoRA",
        "ia3": "wheretune.tuners.ia3:IA3",
        "adapter": "wheretune.tuners.adapter:Adapter",
        "prefix": "wheretune.tuners.prefix:Prefix",
        "bias": "wheretune.tuners.bias:Bias",
    },
    "head": {
        "last-token": "wheretune.heads.last_token:LastToken",
        "concat": "wheretune.heads.concat:Concat",
    },
    "schedule": {"static": "wheretune.schedules.static:Static"},
    "export": {
        "peft": "wheretune.exports.peft:peft",
        "trl": "wheretune.exports.trl:trl",
        "axolotl": "wheretune.exports.axolotl:axolotl",
        "llama-factory": "wheretune.exports.llama_factory:llama_factory",
    },
    "executor": {"serial": "wheretune.support.executors.serial:Serial"},
    "recipe": {
        "prism": "wheretune.recipes.prism:PRISM",
        "prism-journal": "wheretune.recipes.prism_journal:JOURNAL",
        "salf": "wheretune.recipes.salf:SALF",
        "cka-lora-encoder": "wheretune.recipes.cka_lora:ENCODER",
        "cka-lora-decoder": "wheretune.recipes.cka_lora:DECODER",
        "olft": "wheretune.recipes.olft:OLFT",
    },
}


def names(axis: str) -> tuple[str, ...]:
    """The names on an axis: ours in the order of the table, then those of other packages."""
    return (*ROWS[axis], *(name for name in _offered(axis) if name not in ROWS[axis]))


def find(axis: str, name: str) -> Any:
    """The class (or, where the row says so, the object) that `name` means on an axis.

    Raises:
        ConfigError: The name is unknown; the nearest known one is named.
    """
    if name in ROWS[axis]:
        module, _, attribute = ROWS[axis][name].partition(":")
        return getattr(import_module(module), attribute)
    offered = _offered(axis)
    if name not in offered:
        raise ConfigError(f"there is no {axis} {name!r}", nearest(name, names(axis)))
    return offered[name]


def every(axis: str) -> dict[str, Any]:
    """All that an axis has, by name."""
    return {name: find(axis, name) for name in names(axis)}


@cache
def _offered(axis: str) -> dict[str, Any]:
    """What other packages offer under their entry points, by name."""
    offered = {}
    for point in entry_points(group=f"wheretune.{axis}s"):
        try:
            offered[point.name] = point.load()
        except Exception as error:  # another package's fault must not keep ours from running
            log.warning("%s from the package of %s cannot be loaded: %s", point.name, point.value, error)
    return offered


def nearest(name: str, known: Iterable[str]) -> str:
    """What the user may have meant by `name`, as the end of a message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def build(axis: str, spec: Spec) -> Any:
    """The object that `spec` describes; specs inside it are built as their fields say.

    A field declared as `Spec` keeps its spec; in any other field a spec is of the same axis and is built too.

    Raises:
        ConfigError: The name or a parameter is unknown.
    """
    made = find(axis, spec.name)
    kinds = _kinds(made)

    def inner(key: str, value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"name", "params"}:
            value = Spec(value["name"], dict(value["params"]))
        if not isinstance(value, Spec):
            return tuple(value) if isinstance(value, list) else value
        return value if kinds.get(key, "").split(" ")[0] == "Spec" else build(axis, value)

    try:
        return made(**{key: inner(key, value) for key, value in spec.params.items()})
    except TypeError as error:
        raise ConfigError(f"the {axis} {spec.name} does not take these parameters ({error})", "see --help") from error


def read(axis: str, text: str, options: Iterable[str] = ()) -> Any:
    """The object that `text` names: a name, and options after colons, as in `lora:r=8:targets=all-linear`.

    Args:
        axis: Which axis.
        text: What the user wrote.
        options: More options, `name=value` each.

    Raises:
        ConfigError: The name or an option is unknown, or a value cannot be used.
    """
    return build(axis, written(axis, text, options))


def written(axis: str, text: str, options: Iterable[str] = ()) -> Spec:
    """The spec that `text` describes, as for `read`; only what was written stands in it.

    Raises:
        ConfigError: The name or an option is unknown, or a value is not of the option's kind.
    """
    name, *inside = text.split(":")
    kinds = _kinds(find(axis, name))
    params: dict[str, Any] = {}
    for option in [*inside, *options]:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"the {axis} option {option!r} has no value", "write name=value")
        if key not in kinds:
            what = nearest(key, kinds) if kinds else "it has none"
            raise ConfigError(f"the {axis} {name} has no option {key!r}", what)
        try:
            params[key] = _reader(kinds[key])(value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"the {axis} option {key} is {value!r}", "give a value of its kind") from error
    return Spec(name, params)


def text_of(spec: Spec) -> str:
    """What `written` reads as this spec: its name and, after colons, its parameters."""
    return ":".join([spec.name, *(f"{key}={_text(value)}" for key, value in spec.params.items())])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    if isinstance(value, Spec):
        return text_of(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def filled(axis: str, spec: Spec, **offered: Any) -> Spec:
    """The spec with those of `offered` that it takes and does not give itself.

    Args:
        axis: Which axis.
        spec: What was asked for.
        offered: By parameter a value from elsewhere (a comparison's k, a run's seed); None offers nothing.

    Raises:
        ConfigError: The name is unknown.
    """
    kinds = _kinds(find(axis, spec.name))
    taken = {key: value for key, value in offered.items() if key in kinds and value is not None}
    return Spec(spec.name, {**taken, **spec.params})


def _kinds(made: Any) -> dict[str, str]:
    """By field of a dataclass, its annotation in words."""
    if not dataclasses.is_dataclass(made):
        return {}
    return {one.name: one.type if isinstance(one.type, str) else one.type.__name__ for one in dataclasses.fields(made)}


def _reader(kind: str) -> Callable[[str], Any]:
    """What makes a value of an annotation out of text."""
    return _READERS.get(kind.removesuffix(" | None"), str)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "Spec": Spec,
    "tuple[int, ...]": lambda text: tuple(int(part) for part in text.replace("+", ",").split(",")),
}
