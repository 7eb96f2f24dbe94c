"""The only table from names to things: every row says where a thing is defined, and it is opened at first use.

A row is `"name": "module:Name"`. Another package adds rows of its own under the entry-point group `wheretune.AXISs`
(`wheretune.scorers`, `wheretune.tuners` ...); ours cannot be replaced. Everything but this table passes objects.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NoReturn

from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.records.fields import fields_of
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
        "layer-probe": "wheretune.scorers.layer_probe:LayerProbe",
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
        "near": "wheretune.selectors.near:Near",
        "upwards": "wheretune.selectors.upwards:Upwards",
        "of-stack": "wheretune.selectors.stacks:OfStack",
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
        "dense": "wheretune.heads.dense:Dense",
        "concat": "wheretune.heads.concat:Concat",
        "lm": "wheretune.heads.lm:LM",
    },
    "task": {
        "auto": "wheretune.tasks.auto:Auto",
        "classification": "wheretune.tasks.classification:Classification",
        "regression": "wheretune.tasks.regression:Regression",
        "multi-label": "wheretune.tasks.multi_label:MultiLabel",
        "unlabelled": "wheretune.tasks.unlabelled:Unlabelled",
        "next-token": "wheretune.tasks.next_token:NextToken",
        "generation": "wheretune.tasks.generation:Generation",
        "chat": "wheretune.tasks.chat:Chat",
        "text": "wheretune.tasks.text:Text",
    },
    "metric": {
        "accuracy": "wheretune.metrics.classification:Accuracy",
        "macro-f1": "wheretune.metrics.classification:MacroF1",
        "f1": "wheretune.metrics.classification:F1",
        "matthews": "wheretune.metrics.classification:Matthews",
        "log-loss": "wheretune.metrics.classification:LogLoss",
        "f1-micro": "wheretune.metrics.multi_label:F1Micro",
        "f1-macro": "wheretune.metrics.multi_label:F1Macro",
        "subset-accuracy": "wheretune.metrics.multi_label:SubsetAccuracy",
        "label-log-loss": "wheretune.metrics.multi_label:LabelLogLoss",
        "pearson": "wheretune.metrics.regression:Pearson",
        "spearman": "wheretune.metrics.regression:Spearman",
        "mse": "wheretune.metrics.regression:MSE",
        "loss": "wheretune.metrics.language:Loss",
        "perplexity": "wheretune.metrics.language:Perplexity",
        "vocabulary-accuracy": "wheretune.metrics.language:VocabularyAccuracy",
        "bleu": "wheretune.metrics.text.bleu:BLEU",
        "nist": "wheretune.metrics.text.nist:NIST",
        "meteor": "wheretune.metrics.text.meteor:METEOR",
        "rouge-l": "wheretune.metrics.text.rouge_l:RougeL",
        "cider": "wheretune.metrics.text.cider:CIDEr",
        "exact-match": "wheretune.metrics.text.exact:ExactMatch",
        "pass-at-1": "wheretune.metrics.text.pass_at_one:PassAtOne",
    },
    "schedule": {
        "static": "wheretune.schedules.static:Static",
        "lift": "wheretune.schedules.lift:Lift",
        "lift-star": "wheretune.schedules.lift:LiftStar",
        "lisa": "wheretune.schedules.lisa:Lisa",
        "slimfit": "wheretune.schedules.slimfit:SlimFit",
        "recap": "wheretune.schedules.recap:Recap",
        "salf": "wheretune.schedules.salf:Salf",
    },
    "export": {
        "peft": "wheretune.exports.peft:peft",
        "trl": "wheretune.exports.trl:trl",
        "axolotl": "wheretune.exports.axolotl:axolotl",
        "llama-factory": "wheretune.exports.llama_factory:llama_factory",
        "unsloth": "wheretune.exports.unsloth:unsloth",
        "ms-swift": "wheretune.exports.ms_swift:ms_swift",
    },
    "executor": {
        "serial": "wheretune.support.executors.serial:Serial",
        "ray": "wheretune.support.executors.ray:Ray",
    },
    "recipe": {
        "prism": "wheretune.recipes.prism:PRISM",
        "prism-journal": "wheretune.recipes.prism_journal:JOURNAL",
        "salf": "wheretune.recipes.salf:SALF",
        "cka-lora-encoder": "wheretune.recipes.cka_lora:ENCODER",
        "cka-lora-decoder": "wheretune.recipes.cka_lora:DECODER",
        "olft": "wheretune.recipes.olft:OLFT",
        "lift": "wheretune.recipes.lift:LIFT",
        "lisa": "wheretune.recipes.lisa:LISA",
        "slimfit": "wheretune.recipes.slimfit:SLIMFIT",
        "recap": "wheretune.recipes.recap:RECAP",
    },
}

MAIN = {"executor": "address"}  # by axis, the option that may stand behind a name without its own: ray:HOST:PORT
SPELLINGS = {"lift*": "lift-star"}  # names as papers print them, which no shell or folder likes


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
        raise ConfigError(f"there is no {axis} {name!r}", nearest(name, names(axis)), axis)
    return offered[name]


def every(axis: str) -> dict[str, Any]:
    """All that an axis has, by name."""
    return {name: find(axis, name) for name in names(axis)}


def _offered(axis: str) -> dict[str, Any]:
    """What other packages offer under their entry points, by name."""
    return _loaded(f"wheretune.{axis}s", tuple(sys.path))


@cache
def _loaded(group: str, path: tuple[str, ...]) -> dict[str, Any]:
    """The entry points of a group that can be loaded, found on `path`."""
    offered = {}
    for point in entry_points(group=group):
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
        ConfigError: The name or a parameter is unknown, or a value is not of the parameter's kind.
    """
    made = find(axis, spec.name)
    fields = fields_of(made)
    given: dict[str, Any] = {}
    for key, value in spec.params.items():
        if key not in fields:
            _refuse_unknown(axis, spec.name, key, fields)
        kind = fields[key]
        if not kind.fits(value):
            raise ConfigError(f"the {axis} {spec.name} has {key}={value!r}", f"give {kind.words}", axis)
        given[key] = build(axis, value) if isinstance(value, Spec) and not kind.keeps_spec else value
    try:
        return made(**given)
    except ConfigError as error:
        if error.field not in given:
            raise
        raise ConfigError(f"the {axis} {spec.name}: {error.problem}", error.remedy) from error
    except TypeError as error:
        raise ConfigError(f"the {axis} {spec.name} does not take these parameters ({error})", "see --help") from error


def read(axis: str, text: str, options: Iterable[str] = ()) -> Any:
    """The object that `text` names: a name, and options after colons, as in `lora:r=8:targets=all-linear`.

    A value may hold colons, as an address does. One option of an axis may stand without its name: `ray:HOST:PORT`.

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
    first, *inside = re.split(r":(?=\w+=)", text)
    name, colon, main = first.partition(":")
    name = SPELLINGS.get(name, name)
    fields = fields_of(find(axis, name))
    if colon:
        inside.insert(0, f"{MAIN[axis]}={main}" if MAIN.get(axis) in fields else main)
    params: dict[str, Any] = {}
    for option in [*inside, *options]:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"the {axis} option {option!r} has no value", "write name=value", axis)
        if key not in fields:
            _refuse_unknown(axis, name, key, fields)
        try:
            params[key] = fields[key].read(value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"the {axis} option {key} is {value!r}", f"give {fields[key].words}", axis) from error
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
    fields = fields_of(find(axis, spec.name))
    taken = {key: value for key, value in offered.items() if key in fields and value is not None}
    return Spec(spec.name, {**taken, **spec.params})


def _refuse_unknown(axis: str, name: str, key: str, fields: Mapping[str, Any]) -> NoReturn:
    what = nearest(key, fields) if fields else "it has none"
    raise ConfigError(f"the {axis} {name} has no option {key!r}", what, axis)
