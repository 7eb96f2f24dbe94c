"""The command line. Each command reads its options, calls one function of another room and shows what came back.

Tables go to standard output, progress and notes to standard error; with `--json` standard output is JSON only.
Exit codes: 0 done, 1 a run of a comparison failed, 2 something the user can mend, 130 stopped by Ctrl-C.
"""

import difflib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from rich.console import Console
from rich.text import Text

from wheretune import __version__
from wheretune.errors import ConfigError, OutputError, WheretuneError

if TYPE_CHECKING:  # the rooms with torch in them are opened inside the commands, so that --help is quick
    from wheretune.pipeline import AnyScorer, PassSettings
    from wheretune.planning import AnySelector
    from wheretune.records.data import DataSpec
    from wheretune.records.plan import Plan
    from wheretune.records.runs import CacheSettings, RunResult
    from wheretune.records.scores import LayerScores
    from wheretune.scoring.one_pass import Settle
    from wheretune.tuners.base import Tuner

app = typer.Typer(
    name="wheretune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Where to fine-tune a language model: score every layer in one forward pass, choose, tune exactly those.",
)
USAGE_ERROR: Any = typer.BadParameter.__base__  # click's, wherever this version of typer keeps it
TUNE_OWNED = (
    "tune.json", "probe", "scores.json", "plan.json", "run.json", "checkpoint-*", "prefix-*", "delta.safetensors",
    "adapter", "README.md", "wheretune.json", "result.json",
)  # fmt: skip
STOPPED = 130  # what a shell reports of Ctrl-C, and what typer makes of it
PIPE_WIDTH = 120  # where there is no terminal to ask, a line may be this long
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)


# --- options that several commands share --------------------------------------------------------


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Takes the options of a YAML file as defaults, so that the command line has the last word."""
    if path is None or context.resilient_parsing:
        return path
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path given as --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML ({reason})", "write one `option: value` a line") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no options", "write one `option: value` a line")
    known = {
        option.removeprefix("--").replace("-", "_"): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if not option.startswith("-h") and parameter.name != "config"
    }
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{path} has the unknown key {key!r}", f"the nearest known one is {close!r}")
        if value is None:
            continue
        many = getattr(known[name], "multiple", False)
        parts = [str(part) for part in value] if many and isinstance(value, list) else _as_text(value)
        defaults[str(known[name].name)] = [parts] if many and isinstance(parts, str) else parts
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={inner}" for key, inner in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_preset(context: typer.Context, name: str | None) -> str | None:
    """Takes a paper's choices as defaults; a config and the command line have the last word."""
    if name is None or context.resilient_parsing:
        return name
    from wheretune import catalog
    from wheretune.studies import methods

    if name not in methods.PRESETS:
        raise ConfigError(f"there is no preset {name!r}", catalog.nearest(name, methods.PRESETS))
    taken = {parameter.name for parameter in context.command.params}
    defaults = {key: str(value) for key, value in methods.PRESETS[name].items() if key in taken}
    context.default_map = {**defaults, **(context.default_map or {})}
    return name


def _read_recipe(context: typer.Context, name: str | None) -> str | None:
    """Takes a recipe's choices as defaults; a config and the command line have the last word."""
    if name is None or context.resilient_parsing:
        return name
    from wheretune import catalog

    if name not in catalog.every("recipe"):
        raise ConfigError(f"there is no recipe {name!r}", catalog.nearest(name, catalog.every("recipe")))
    context.default_map = {**catalog.every("recipe")[name].defaults, **(context.default_map or {})}
    return name


def _option(*names: str, text: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, show_default=more.pop("show_default", True), **more)


Model = Annotated[str | None, _option("--model", text="Local folder or hub name.", metavar="M")]
Train = Annotated[
    str | None,
    _option("--train", text="Training data: .jsonl, .jsonl.gz, .csv, .tsv, .parquet or a hub data set as "
            "name:config:split.", metavar="F"),
]  # fmt: skip
Validation = Annotated[str | None, _option("--validation", text="Validation data.", metavar="F")]
TextColumn = Annotated[str, _option("--text-column", text="Column with the text.")]
PairColumn = Annotated[str | None, _option("--pair-column", text="Column with the second text of a pair.")]
LabelColumn = Annotated[str | None, _option("--label-column", text="Column with the label.", show_default="label")]
TaskOption = Annotated[
    Literal["auto", "classification", "regression"],
    _option("--task", text="auto: regression if labels are numbers and some are not whole."),
]
MaxSamples = Annotated[
    int | None, _option("--max-samples", text="Use so many rows, drawn with --seed.", show_default="all")
]
MaxLength = Annotated[
    int | None,
    _option("--max-length", text="Tokens a text is cut to.", show_default="the model's limit, at most 512"),
]
ScorerOption = Annotated[
    str, _option("--scorer", text="See `wheretune scorers`; options after colons: cka:estimator=debiased.")
]
LastOption = Annotated[
    Literal["normed", "raw"],
    _option("--last-state", text="The last state after the final norm (as Transformers gives it), or before."),
]
PoolingOption = Annotated[
    Literal["token", "mean"],
    _option("--pooling", text="Representative token ([CLS] or last), or the mean over tokens."),
]
Select = Annotated[
    str | None, _option("--select", text="See `wheretune selectors`.", show_default="what the scorer's source uses")
]
K = Annotated[int | None, _option("--k", text="Layers to tune.", show_default="a quarter of the layers")]
Ratio = Annotated[
    float | None,
    _option("--ratio", text="In place of --k: the share of the layers to tune, rounded down.", show_default="none"),
]
NearOption = Annotated[
    float | None,
    _option("--near", text="Take a higher layer, which costs less, for one whose score is better by no more than this "
            "share of the profile's range.", show_default="exact scores decide"),
]  # fmt: skip
BudgetShare = Annotated[
    float, _option("--budget", text="For --select budget: the share of full fine-tuning that may be spent.")
]
BudgetOf = Annotated[
    Literal["compute", "parameters"], _option("--budget-of", text="For --select budget: what is spent.")
]
Preset = Annotated[
    str | None,
    _option(
        "--preset",
        text="A paper's scorer, selector and number of layers: prism, cka-encoder, cka-decoder, salf or olft; options "
        "given beside it have the last word.",
        show_default="none",
        callback=_read_preset,
        is_eager=True,
    ),
]
TargetColumn = Annotated[
    str | None,
    _option("--target-column", text="For semantic-deviation: the column whose first token follows the text.",
            show_default="none"),
]  # fmt: skip
Verbalizer = Annotated[
    str,
    _option("--verbalizer", text="For semantic-deviation: the word for each class, as class=word,class=word.",
            show_default="the classes' names"),
]  # fmt: skip
Standardise = Annotated[
    bool,
    _option(
        "--standardise",
        text="Take every dimension to mean 0 and deviation 1 first, so that a few rogue dimensions do not decide every "
        "cosine. Reads the data twice.",
    ),
]
Figures = Annotated[
    Path | None,
    _option("--figures", text="Folder for the figures (profile.png and what else there is).", show_default="none"),
]
Before = Annotated[
    Path | None,
    _option("--before", text="Scores from before the model was tuned: deviations.png has both.", show_default="none"),
]
CompareScorers = Annotated[
    bool, _option("--compare", text="Several scorers side by side: how alike they rank, who would choose what.")
]
Layers = Annotated[
    str, _option("--layers", text="For --select explicit: the layers from 0, such as 1,4, or all.", show_default=False)
]
LayersAttribute = Annotated[
    str | None,
    _option("--layers-attribute", text="Path of the list of layers in the headless model, where it is not found.",
            show_default="found", metavar="PATH"),
]  # fmt: skip
QuantizeOption = Annotated[
    Literal["4bit", "8bit"] | None,
    _option("--quantize", text="Hold the base in 4 or 8 bits; needs CUDA and bitsandbytes.", show_default="none"),
]
TunerOption = Annotated[
    str, _option("--tuner", text="How layers are tuned: full, lora, pissa, dora, adalora, ia3, adapter, prefix, bias, "
                 "head-only; options after colons: lora:r=8."),
]  # fmt: skip
TunerOptions = Annotated[
    list[str] | None,
    _option("--tuner-option", text="An option of the tuner, such as r=16 or targets=all-linear; may be repeated.",
            show_default="the papers'", metavar="NAME=VALUE"),
]  # fmt: skip
HeadOption = Annotated[
    str, _option("--head", text="last-token (linear on the last layer) or concat (MLP on all layers).")
]
Epochs = Annotated[int, _option("--epochs", text="Passes over the training data.")]
LearningRate = Annotated[float, _option("--learning-rate", text="Peak learning rate.")]
BatchSize = Annotated[int, _option("--batch-size", text="Texts in a batch.")]
WarmupRatio = Annotated[float, _option("--warmup-ratio", text="Share of the steps that warm up.")]
TokensPerBatch = Annotated[
    int | None,
    _option("--tokens-per-batch",
            text="Instead of --batch-size: so many tokens at most, with padding; a longer text stands alone.",
            show_default="none", metavar="N"),
]  # fmt: skip
FrozenDropout = Annotated[
    bool,
    _option("--frozen-dropout", text="Let frozen layers drop out as stock Trainer does; nothing is cached then."),
]
AllTokens = Annotated[
    bool, _option("--all-tokens", text="Let the last layer compute all tokens, not only the one that is read.")
]
Pack = Annotated[
    bool,
    _option("--pack", text="Put the texts of a batch one after the other instead of padding them; for decoders, and "
            "worth it with flash attention on a GPU."),
]  # fmt: skip
CachePrefix = Annotated[
    Literal["auto", "memory", "disk", "off"],
    _option("--cache-prefix", text="Where the states that enter the lowest trained layer are kept, so that the frozen "
            "layers below it run once only; auto goes by size, free space and measured speed."),
]  # fmt: skip
CacheType = Annotated[
    Literal["fp32", "bf16"], _option("--cache-dtype", text="How these states are kept; bf16 halves the size.")
]
CacheDir = Annotated[
    Path | None,
    _option("--cache-dir", text="Where they are kept on disk.", show_default="in --output", metavar="DIR"),
]
CacheLimit = Annotated[
    str | None,
    _option("--cache-limit", text="How much they may take, such as 500MB or 20GB.", show_default="half of what is free",
            metavar="SIZE"),
]  # fmt: skip
KeepCache = Annotated[bool, _option("--keep-cache", text="Leave them on disk for the next run on the same data.")]


def _cache(
    where: Literal["auto", "memory", "disk", "off"], folder: Path | None, limit: str | None, keep: bool
) -> "CacheSettings":
    """How the prefix is to be cached."""
    from wheretune.records.runs import CacheSettings

    most = None if limit is None else _bytes(limit, "--cache-limit")
    return CacheSettings(where, folder=folder, limit=most, keep=keep)


def _bytes(text: str, option: str) -> int:
    """A size such as 500MB in bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{option} is {text!r}", "give a size such as 500MB or 20GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


Seed = Annotated[int, _option("--seed", text="Of every random draw.")]
Resume = Annotated[
    bool, _option("--resume", text="Read a finished --output again; a stopped one goes on without being asked.")
]
Overwrite = Annotated[bool, _option("--overwrite", text="Replace what wheretune left in --output.")]
AsJson = Annotated[bool, _option("--json", text="Print JSON for a script, and nothing else, on standard output.")]
Config = Annotated[
    Path | None,
    _option("--config", text="YAML file with any of these options.", callback=_read_config, is_eager=True),
]


def _needed(value: Any, option: str) -> Any:
    if value is None:
        raise ConfigError(f"{option} is missing", f"give {option} (see --help for an example)")
    return value


def _show(thing: object, as_json: bool = False, data: Any = None) -> None:
    """Prints a rich object, or the JSON of `data` where a script asked for it."""
    if as_json:
        _write_out(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        out.print(thing, soft_wrap=isinstance(thing, Text))


def _write_out(text: str) -> None:
    """Writes to standard output; whoever reads it may have heard enough (`| head`)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _note(message: str) -> None:
    err.print(Text(message, style="dim"), soft_wrap=True)


def _numbers(text: str, kind: Any, option: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in str(text).split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}", "give numbers with commas between them") from error


@dataclass(frozen=True)
class _Pick:
    """How layers are chosen, as the options say."""

    select: str | None
    k: int | None
    ratio: float | None
    near: float | None
    budget: float
    budget_of: str
    seed: int
    layers: str = ""

    def selector(self, count: int, source: str) -> "AnySelector":
        """The selector for a model of `count` layers; `source` is the one that the scorer's source uses."""
        from wheretune.studies import methods

        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}", "give 0 or more")
        if self.layers and self.select not in (None, "explicit"):
            raise ConfigError("--layers goes with --select explicit", "drop the one or add the other")
        name = self.select or ("explicit" if self.layers else source)
        return methods.selector(
            name,
            k=_count(self.k, self.ratio, count),
            seed=self.seed,
            layers=tuple(range(count)) if self.layers == "all" else _numbers(self.layers, int, "--layers"),
            near=self.near,
            share=self.budget,
            of=self.budget_of,
            prefer="lowest" if "lowest" in source else "highest",
        )


def _count(k: int | None, ratio: float | None, layers: int) -> int:
    """How many layers to tune: --k, --ratio of them, or a quarter."""
    if k is not None and ratio is not None:
        raise ConfigError("--k and --ratio both say how many layers", "give the one or the other")
    if ratio is None:
        return max(1, layers // 4) if k is None else k
    if not 0 < ratio <= 1 or int(ratio * layers + 1e-9) < 1:
        raise ConfigError(f"--ratio {ratio} of {layers} layers is no layer", f"give a share from {1 / layers:.3f} to 1")
    return int(ratio * layers + 1e-9)  # floor, but 0.3 of 10 is 3


def _source_selector(name: str) -> str:
    """The selector that a scorer's source uses with it."""
    from wheretune import catalog

    card = getattr(catalog.every("scorer").get(name), "card", None)
    return str(card.selector) if card is not None else "block-highest"


def _check_names(scorer: str, head: str, pick: _Pick | None = None) -> None:
    """Says that a name is unknown before a model is loaded."""
    from wheretune import catalog
    from wheretune.records.base import Spec
    from wheretune.studies import methods

    catalog.read("scorer", scorer)
    catalog.build("head", Spec(head))
    if pick is not None and pick.select is not None and pick.select not in catalog.every("selector"):
        methods.selector(pick.select, k=1, seed=0)


def _check_preset(preset: str | None, model: str | bool) -> None:
    """Says that a preset is meant for another kind of model; `model` is its name, or whether it is a decoder."""
    from wheretune.model.opening import is_causal
    from wheretune.studies import methods

    wanted = methods.PRESETS[preset].get("causal") if preset is not None else None
    if wanted is None:
        return
    found = is_causal(model) if isinstance(model, str) else model
    if found is not wanted:
        kinds = {True: "decoders", False: "encoders"}
        other = {"cka-encoder": "cka-decoder", "cka-decoder": "cka-encoder"}.get(str(preset), "another preset")
        raise ConfigError(f"--preset {preset} is for {kinds[wanted]}, and the model is none of these", f"take {other}")


# --- commands -----------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, _option("--version", text="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"wheretune {__version__}\n")
        raise typer.Exit


@app.command()
def score(
    context: typer.Context,
    model: Model = None,
    train: Train = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    target_column: TargetColumn = None,
    verbalizer: Verbalizer = "",
    task: TaskOption = "auto",
    scorer: Annotated[
        str,
        _option(
            "--scorer",
            text="One or more with commas, all in one pass; see `wheretune scorers`. Options follow "
            "colons: cka:estimator=debiased.",
        ),
    ] = "cosine-centrality",
    preset: Preset = None,
    pooling: PoolingOption = "token",
    last_state: LastOption = "normed",
    standardise: Standardise = False,
    max_samples: MaxSamples = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        _option("--output", text="Where the scores go.", show_default="scores.json, or shard-I-of-N.safetensors"),
    ] = None,
    select: Select = None,
    k: K = None,
    ratio: Ratio = None,
    near: NearOption = None,
    budget: BudgetShare = 0.5,
    budget_of: BudgetOf = "compute",
    until_settled: Annotated[
        bool, _option("--until-settled", text="Read the data in random order and stop when --select is settled.")
    ] = False,
    confidence: Annotated[float, _option("--confidence", text="With --until-settled: how sure to be.")] = 0.95,
    tolerance: Annotated[
        float, _option("--tolerance", text="With --until-settled: a layer worse by no more than this is as good.")
    ] = 0.0,
    bound: Annotated[
        Literal["asymptotic", "betting"],
        _option(
            "--bound",
            text="With --until-settled: right in the limit of many texts, or rigorous for any number, "
            "which takes many more.",
        ),
    ] = "asymptotic",
    shard: Annotated[
        str | None,
        _option(
            "--shard",
            text="Read part I of N only, as I/N; `wheretune merge-scores` joins the parts.",
            show_default="all",
        ),
    ] = None,
    figures: Figures = None,
    before: Before = None,
    compare: CompareScorers = False,
    layers_attribute: LayersAttribute = None,
    quantize: QuantizeOption = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Score every layer in one forward pass, without training, and say what would be chosen and how sure that is.

    Scorers that need gradients add one backward pass, and layer-probe trains; `wheretune scorers` says what each needs.

    For example:

    wheretune score --model bert-base-cased --train train.jsonl --output scores.json

    wheretune score --model ./my-model --train pairs.csv --text-column a --pair-column b --figures figures

    wheretune score --model gpt2 --train t.jsonl --scorer semantic-deviation --verbalizer neg=bad,pos=good

    wheretune score --model M --train t.jsonl --scorer cosine-centrality,cka,gradient-norm --compare

    wheretune score --model M --train t.jsonl --shard 1/4
    """
    from wheretune.pipeline import gather_model, score_model
    from wheretune.records.scores import load_scores

    scorers = _scorers(scorer)
    k, ratio = _one_count(preset, k, ratio)
    pick = _Pick(select, k, ratio, near, budget, budget_of, seed)
    _refuse_idle(context, [made.card.reads for made in scorers], pick)
    data = _data(
        _needed(train, "--train"), text_column, pair_column, label_column, task, max_samples, max_length, seed,
        target_column, verbalizer,
    )  # fmt: skip
    name = _needed(model, "--model")
    if not until_settled:
        _refuse(context, ("confidence", "tolerance", "bound"), "a full pass (add --until-settled)")
    if before is not None and figures is None:
        raise ConfigError("--before is for deviations.png", "add --figures")
    earlier = _one_of(load_scores(before), "semantic-deviation") if before is not None else None
    if compare and len(scorers) < 2:
        raise ConfigError("--compare needs several scorers", "name them with --scorer a,b,c")
    _check_preset(preset, name)
    for made in scorers:
        _try_selector(pick, name, made.name, layers_attribute)
    settle = (
        _settler(_layer_count(name, layers_attribute), scorers, pick, confidence, tolerance, bound)
        if until_settled
        else None
    )
    how: PassSettings = {
        "batch_size": batch_size, "pooling": pooling, "last": last_state, "standardise": standardise, "settle": settle,
    }  # fmt: skip
    if shard is not None:
        from wheretune.scoring.shards import save_shard
        from wheretune.trials import LayerProbe

        later = ("figures", "before", "compare", "select", "k", "ratio", "near", "budget", "budget_of")
        _refuse(context, later, "a shard (merge-scores takes it)")
        number, of = _shard(shard)
        passing = [scorer for scorer in scorers if not isinstance(scorer, LayerProbe)]
        if len(passing) < len(scorers):
            raise ConfigError("layer-probe trains, and cannot be spread over shards", "leave it out")
        target = _file(output or Path(f"shard-{number}-of-{of}.safetensors"))
        how["shard"] = (number, of)
        gathered = gather_model(name, data, passing, layers_attribute, quantize, **how)
        save_shard(gathered, target)
        said = {"output": str(target), "shard": [number, of], "n_samples": gathered.n_samples}
        _show(Text(f"shard {number} of {of}: {gathered.n_samples} texts in {target}"), json_, said)
        return
    target = _file(output or Path("scores.json"))
    folder = target.parent / f"{target.stem}-probe"
    every = score_model(name, data, scorers, folder, layers_attribute, quantize, **how)
    for made in scorers if not json_ else ():
        if made.card.reads == "training":
            _show_candidates(folder, made)
    _report(every, pick, target, figures, earlier, compare, json_)


def _scorers(text: str) -> "list[AnyScorer]":
    from wheretune import catalog

    made = [catalog.read("scorer", name.strip()) for name in text.split(",") if name.strip()]
    if not made or len({scorer.name for scorer in made}) < len(made):
        raise ConfigError(f"--scorer is {text!r}", "name at least one scorer, and each once")
    return made


def _file(path: Path) -> Path:
    """A place for a file, seen to be none for a folder before the work is done."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "give a file as --output")
    return path


def _one_count(preset: str | None, k: int | None, ratio: float | None) -> tuple[int | None, float | None]:
    """--k and --ratio, where the user's own puts aside the preset's."""
    from wheretune.studies import methods

    given = methods.PRESETS[preset] if preset is not None else {}
    if k is not None and ratio is not None:
        return (k, None) if given.get("ratio") == ratio else (None, ratio) if given.get("k") == k else (k, ratio)
    return k, ratio


def _refuse_idle(context: typer.Context, reads: Sequence[str], pick: _Pick) -> None:
    """Refuses options that the scorers and the selector do not read."""
    from wheretune import catalog

    if not {"states", "meanings"} & set(reads):
        named = "a scorer that reads no states"
        _refuse(context, ("pooling", "last_state", "standardise", "until_settled"), named)
    if "meanings" not in reads:
        _refuse(context, ("verbalizer", "target_column", "before"), "a scorer other than semantic-deviation")
    if pick.select != "budget":
        _refuse(context, ("budget", "budget_of"), "a selector other than budget")
    fields = getattr(catalog.every("selector").get(pick.select or ""), "__dataclass_fields__", {"k": None})
    if "k" not in fields:
        _refuse(context, ("k", "ratio"), f"--select {pick.select}")


def _shard(text: str) -> tuple[int, int]:
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise ConfigError(f"--shard is {text!r}", "give I/N with I from 1 to N, such as 1/4")
    return int(parts[0]), int(parts[1])


def _show_candidates(folder: Path, scorer: Any) -> None:
    """The table of a layer probe."""
    from wheretune.show.tables import table
    from wheretune.support.words import count, seconds
    from wheretune.trials import candidates, place

    folder = place(folder, scorer)
    rows = [
        (str(c.layer), f"{c.metric} {c.value:.4f}", str(c.n), count(c.trainable_parameters), seconds(c.seconds))
        for c in candidates(folder)
    ]
    columns = ("layer", "tuned alone", "n", "trainable", "time")
    out.print(table(f"layer probe (in {folder})", columns, rows, left=("tuned alone",)))


def _report(
    every: "list[LayerScores]",
    pick: _Pick,
    output: Path,
    figures: Path | None,
    before: "LayerScores | None",
    compare: bool,
    json_: bool,
) -> None:
    """Says what would be chosen, writes the scores and figures, and shows them."""
    from dataclasses import replace

    from wheretune.planning import agreement, choose
    from wheretune.records.base import to_json
    from wheretune.records.scores import save_scores

    save_scores(every, output)  # they stand, whatever is then made of them
    selectors = [pick.selector(len(scores.layers), _source_selector(scores.scorer.name)) for scores in every]
    every = [replace(scores, choice=choose(scores, how)) for scores, how in zip(every, selectors, strict=True)]
    save_scores(every, output)
    lowest = ["lowest" in _source_selector(scores.scorer.name) for scores in every]
    side_by_side = agreement(every, selectors, lowest) if compare else None
    if figures is not None:
        _draw(every, figures, before)
        if side_by_side is not None:
            from wheretune.show.figures import agreement_figure, save_figure
            from wheretune.support.words import short_name

            chosen = [choice.layers for choice in side_by_side.choices]
            title = f"{short_name(every[0].model.name)}: {len(every)} scorers, n = {every[0].n_samples}"
            figure = agreement_figure(
                side_by_side.names, side_by_side.correlations, chosen, len(every[0].layers), title
            )
            save_figure(figure, figures / "scorers.png")
    if json_:
        written = [to_json(scores) for scores in every]
        content: dict[str, Any] = written[0] if len(every) == 1 else {"scores": written}
        _show(None, json_, content | ({"agreement": to_json(side_by_side)} if side_by_side is not None else {}))
    else:
        for scores in every:
            out.print(scores.profile(scores.choice.layers if scores.choice is not None else ()))
            for said in (scores.settlement, scores.deviations, scores.choice):
                if said is not None:
                    out.print(Text(str(said)), soft_wrap=True)
        if side_by_side is not None:
            _show_agreement(side_by_side)
    _note(f"scores in {output}; next: wheretune plan {output}")


def _draw(every: "list[LayerScores]", figures: Path, before: "LayerScores | None") -> None:
    from wheretune.show.figures import save_figure

    for scores in every:
        prefix = "" if len(every) == 1 else f"{scores.scorer.name}-"
        save_figure(scores.plot(scores.choice.layers if scores.choice else ()), figures / f"{prefix}profile.png")
        if scores.similarity is not None:
            save_figure(scores.plot_similarity(), figures / f"{prefix}similarity.png")
        if scores.deviations is not None:
            save_figure(scores.plot_deviations(before), figures / f"{prefix}deviations.png")


def _show_agreement(found: Any) -> None:
    from wheretune.show.tables import table

    numbers = [str(number) for number in range(1, len(found.names) + 1)]
    rows = [
        (f"{number} {name}", *("–" if value is None else f"{value:.2f}" for value in row))
        for number, name, row in zip(numbers, found.names, found.correlations, strict=True)
    ]
    title = "how alike they rank the layers (Spearman; scores that are tuned from the lowest are turned round)"
    out.print(table(title, ("scorer", *numbers), rows, left=("scorer",)))
    chosen = [
        (name, str(choice.selector), _comma(choice.layers),
         "–" if choice.confidence is None else f"{choice.confidence.selection:.0%}")
        for name, choice in zip(found.names, found.choices, strict=True)
    ]  # fmt: skip
    columns = ("scorer", "selector", "layers", "how sure")
    out.print(table("who would choose what", columns, chosen, left=("scorer", "selector", "layers")))


@app.command("merge-scores")
def merge_scores(
    context: typer.Context,
    shards: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SHARD...", help="All shards that `score --shard` wrote.", show_default=False),
    ] = None,
    output: Annotated[Path, _option("--output", text="Where the scores go.")] = Path("scores.json"),
    select: Select = None,
    k: K = None,
    ratio: Ratio = None,
    near: NearOption = None,
    budget: BudgetShare = 0.5,
    budget_of: BudgetOf = "compute",
    seed: Seed = 0,
    figures: Figures = None,
    before: Before = None,
    compare: CompareScorers = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Join the shards of a scoring pass that was spread over machines, into the scores one pass would have given.

    For example:

    wheretune merge-scores shard-1-of-4.safetensors shard-2-of-4.safetensors shard-3-of-4.safetensors
    shard-4-of-4.safetensors --output scores.json
    """
    from wheretune.records.scores import load_scores
    from wheretune.scoring import shards as room

    every = room.merge_scores(_needed(shards or None, "a shard"))
    pick = _Pick(select, k, ratio, near, budget, budget_of, seed)
    _refuse_idle(context, [_reads(scores) for scores in every], pick)
    if before is not None and figures is None:
        raise ConfigError("--before is for deviations.png", "add --figures")
    if compare and len(every) < 2:
        raise ConfigError("--compare needs several scorers", "score the shards with --scorer a,b,c")
    earlier = _one_of(load_scores(before), "semantic-deviation") if before is not None else None
    _report(every, pick, _file(output), figures, earlier, compare, json_)


def _reads(scores: "LayerScores") -> str:
    from wheretune import catalog

    return str(catalog.every("scorer")[scores.scorer.name].card.reads)


def _data(
    source: str,
    text: str,
    pair: str | None,
    label: str | None,
    task: Any,
    most: int | None,
    length: int | None,
    seed: int,
    target: str | None = None,
    verbalizer: str = "",
) -> "DataSpec":
    from wheretune.records.data import DataSpec

    if length is not None and length < 1:
        raise ConfigError(f"--max-length is {length}", "give 1 or more")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"--seed is {seed}", "give a number from 0 to 4294967295")
    source = str(Path(source).resolve()) if Path(source).is_file() else source
    words = _words(verbalizer)
    if words is not None and target is not None:
        raise ConfigError("--verbalizer and --target-column both say what follows a text", "give the one or the other")
    return DataSpec(source, text, pair, label, task, most, length, seed, target, words)


def _words(text: str) -> dict[str, str] | None:
    """A verbaliser: the word for each class."""
    if not text:
        return None
    pairs = [part.split("=", 1) for part in text.split(",")]
    if not all(len(pair) == 2 and pair[0].strip() and pair[1].strip() for pair in pairs):
        raise ConfigError(f"--verbalizer is {text!r}", "write class=word,class=word")
    return {name.strip(): word.strip() for name, word in pairs}


def _layer_count(model: str, layers_attribute: str | None) -> int:
    from wheretune.model.opening import layer_count

    return layer_count(model, layers_attribute)


def _settler(
    count: int, scorers: "Sequence[AnyScorer]", pick: _Pick, confidence: float, tolerance: float, bound: Any
) -> "Settle":
    from wheretune.scoring.confidence import Settler
    from wheretune.selectors.base import AdaptiveSelector

    if len(scorers) != 1:
        raise ConfigError("--until-settled goes with one scorer", "name one with --scorer")
    selector = pick.selector(count, scorers[0].card.selector)
    if isinstance(selector, AdaptiveSelector):
        raise ConfigError(
            f"whether {selector.name} is settled cannot be told: it looks at more than pairs of layers",
            "select highest, lowest, block-highest, block-lowest, middle-best or suffix, without --near",
        )
    return Settler(selector, confidence, tolerance, bound).watch


def _score(
    model: str,
    data: "DataSpec",
    scorer: str,
    pooling: Any,
    batch_size: int,
    folder: Path,
    layers_attribute: str | None,
    quantize: Any,
    tuner: Any,
) -> "LayerScores":
    """The scores by one scorer; a layer probe works in `folder`, and tunes as the plan will."""
    from wheretune.pipeline import score_model
    from wheretune.trials import suited

    scorers = [suited(made, tuner) for made in _scorers(scorer)]
    if len(scorers) > 1:
        raise ConfigError(f"--scorer is {scorer!r}", "name one")
    return score_model(
        model, data, scorers, folder, layers_attribute, quantize, batch_size=batch_size, pooling=pooling
    )[0]


@app.command()
def scorers(json_: AsJson = False) -> None:
    """List the scorers: formula, source, what they need, cost, and the selector their source uses.

    For example:

    wheretune scorers
    """
    from dataclasses import asdict

    from wheretune import catalog
    from wheretune.show.tables import table

    cards = {name: asdict(made.card) | {"needs": made.card.needs} for name, made in catalog.every("scorer").items()}
    columns = ("formula", "source", "needs", "cost", "selector")
    rows = [(name, *(str(card[column]) for column in columns)) for name, card in cards.items()]
    _show(table("scorers", ("scorer", *columns), rows, left=("scorer", *columns)), json_, cards)


@app.command()
def selectors(json_: AsJson = False) -> None:
    """List the selectors: what each chooses, and whether it needs scores.

    For example:

    wheretune selectors
    """
    import inspect

    from wheretune import catalog
    from wheretune.show.tables import table

    known = {
        name: {"chooses": str(inspect.getdoc(made)).splitlines()[0], "needs_scores": made.needs_scores}
        for name, made in catalog.every("selector").items()
    }
    rows = [(name, what["chooses"], "yes" if what["needs_scores"] else "no") for name, what in known.items()]
    columns = ("selector", "chooses", "needs scores")
    _show(table("selectors", columns, rows, left=columns), json_, known)


@app.command()
def plan(
    context: typer.Context,
    scores_file: Annotated[
        Path | None,
        typer.Argument(metavar="[SCORES]", help="What `wheretune score` wrote.", show_default=False),
    ] = None,
    model: Model = None,
    train: Train = None,
    preset: Preset = None,
    select: Select = None,
    k: K = None,
    ratio: Ratio = None,
    near: NearOption = None,
    budget: BudgetShare = 0.5,
    budget_of: BudgetOf = "compute",
    layers: Layers = "",
    tuner: TunerOption = "full",
    tuner_option: TunerOptions = None,
    head: HeadOption = "last-token",
    layers_attribute: LayersAttribute = None,
    quantize: QuantizeOption = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    target_column: TargetColumn = None,
    verbalizer: Verbalizer = "",
    task: TaskOption = "auto",
    scorer: Annotated[
        str | None,
        _option(
            "--scorer",
            text="Whose scores, where there are several; or what to score with.",
            show_default="cosine-centrality",
        ),
    ] = None,
    pooling: PoolingOption = "token",
    max_samples: MaxSamples = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    output: Annotated[Path, _option("--output", text="Where the plan goes.")] = Path("plan.json"),
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Choose the layers to tune, from scores or (with --model and --train) scoring first.

    For example:

    wheretune plan scores.json --select block-highest --k 3 --output plan.json

    wheretune plan --model bert-base-cased --train train.jsonl --select lowest --k 3 --head concat

    wheretune plan scores.json --select budget --budget 0.4

    wheretune plan --model bert-base-cased --train train.jsonl --preset cka-encoder

    wheretune plan scores.json --k 3 --tuner lora --tuner-option r=8 --tuner-option targets=all-linear
    """
    from wheretune import catalog
    from wheretune.records.base import save, to_json
    from wheretune.records.scores import load_scores

    k, ratio = _one_count(preset, k, ratio)
    pick = _Pick(select or ("explicit" if layers else None), k, ratio, near, budget, budget_of, seed, layers)
    _check_names(scorer or "cosine-centrality", head, pick)
    _refuse_idle(context, ["states", "meanings"], pick)
    how = catalog.read("tuner", tuner, tuner_option or ())
    if scores_file is not None:
        scoring = ("text_column", "pair_column", "label_column", "target_column", "verbalizer", "task")
        _refuse(
            context,
            (
                "model",
                "train",
                *scoring,
                "pooling",
                "max_samples",
                "max_length",
                "batch_size",
                "layers_attribute",
                "quantize",
            ),
            "a scores file",
        )
        scores = _one_of(load_scores(scores_file), scorer)
        _check_preset(preset, scores.model.causal)
    else:
        data = _data(
            _needed(train, "a scores file or --model and --train"),
            text_column, pair_column, label_column, task, max_samples, max_length, seed, target_column, verbalizer,
        )  # fmt: skip
        name = _needed(model, "--model")
        _check_preset(preset, name)
        _try_selector(pick, name, scorer or "cosine-centrality", layers_attribute)
        folder = output.parent / f"{output.stem}-probe"
        scores = _score(
            name, data, scorer or "cosine-centrality", pooling, batch_size, folder, layers_attribute, quantize, how
        )
        if not json_:
            out.print(scores)
    made = _plan(scores, pick, head, how)
    save(made, output)
    _show(made, json_, to_json(made))
    _note(f"plan in {output}; next: wheretune tune --plan {output} --train F --output DIR")


def _one_of(every: "list[LayerScores]", name: str | None) -> "LayerScores":
    """The scores of the scorer that was named, or the only ones there are."""
    from wheretune import catalog
    from wheretune.records.base import Spec

    there = [str(scores.scorer) for scores in every]
    asked = Spec.of(catalog.read("scorer", name)) if name is not None and ":" in name else None
    found = [scores for scores in every if name is None or scores.scorer.name == name.split(":")[0]]
    if asked is not None:
        found = [scores for scores in found if asked.params.items() <= scores.scorer.params.items()]
    if not found:
        raise ConfigError(f"the file has no scores by {name!r}", f"it has {', '.join(there)}")
    if len(found) > 1:
        raise ConfigError("the file has several scores", f"name one with --scorer: {', '.join(there)}")
    return found[0]


def _plan(scores: "LayerScores", pick: _Pick, head: str, tuner: "Tuner") -> "Plan":
    from wheretune import catalog, planning
    from wheretune.records.base import Spec

    made = catalog.build("head", Spec(head))
    if not tuner.needs_layers:
        return planning.plan(scores, None, tuner=tuner, head=made)
    selector = pick.selector(len(scores.layers), _source_selector(scores.scorer.name))
    return planning.plan(scores, selector, tuner=tuner, head=made)


@app.command()
def tune(
    context: typer.Context,
    output: Annotated[Path | None, _option("--output", text="Folder of the run.", metavar="DIR")] = None,
    plan_file: Annotated[
        Path | None, _option("--plan", text="What `wheretune plan` wrote.", show_default="made here")
    ] = None,
    model: Model = None,
    train: Train = None,
    validation: Validation = None,
    epochs: Epochs = 3,
    learning_rate: LearningRate = 5e-5,
    batch_size: BatchSize = 16,
    tokens_per_batch: TokensPerBatch = None,
    warmup_ratio: WarmupRatio = 0.0,
    frozen_dropout: FrozenDropout = False,
    all_tokens: AllTokens = False,
    pack: Pack = False,
    cache_prefix: CachePrefix = "auto",
    cache_dtype: CacheType = "fp32",
    cache_dir: CacheDir = None,
    cache_limit: CacheLimit = None,
    keep_cache: KeepCache = False,
    max_length: MaxLength = None,
    max_samples: MaxSamples = None,
    seed: Seed = 0,
    preset: Preset = None,
    select: Select = None,
    k: K = None,
    ratio: Ratio = None,
    near: NearOption = None,
    budget: BudgetShare = 0.5,
    budget_of: BudgetOf = "compute",
    layers: Layers = "",
    tuner: TunerOption = "full",
    tuner_option: TunerOptions = None,
    head: HeadOption = "last-token",
    layers_attribute: LayersAttribute = None,
    quantize: QuantizeOption = None,
    scorer: ScorerOption = "cosine-centrality",
    text_column: TextColumn = "text",
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task: TaskOption = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Tune the chosen layers; without a plan, score and choose first.

    The folder holds only what changed (delta.safetensors) and all it takes to use it. A run that was stopped
    goes on from its last finished epoch when it is started again.

    For example:

    wheretune tune --model bert-base-cased --train train.jsonl --output runs/mine

    wheretune tune --plan plan.json --train train.jsonl --validation dev.jsonl --output runs/mine --epochs 5

    wheretune tune --model bert-base-cased --train train.jsonl --tuner lora --tuner-option r=8 --output runs/lora
    """
    from dataclasses import asdict

    from wheretune import catalog
    from wheretune.pipeline import RESULT, check_model, run
    from wheretune.records.base import Spec, load, save, to_json
    from wheretune.records.plan import Plan
    from wheretune.records.runs import RunSpec, TrainSettings, check_cache, check_settings
    from wheretune.records.scores import LayerScores
    from wheretune.support.files import claim, taking
    from wheretune.tasks.base import load_data

    folder = _needed(output, "--output")
    k, ratio = _one_count(preset, k, ratio)
    pick = _Pick(select or ("explicit" if layers else None), k, ratio, near, budget, budget_of, seed, layers)
    _check_names(scorer, head, pick)
    _refuse_idle(context, ["states", "meanings"], pick)
    how = catalog.read("tuner", tuner, tuner_option or ())
    if tokens_per_batch is not None:
        _refuse(context, ["batch_size"], "--tokens-per-batch")
    if plan_file is not None:
        choices = ("select", "k", "ratio", "near", "budget", "budget_of", "layers", "head", "scorer", "preset")
        mine = ("tuner", "tuner_option", "layers_attribute", "quantize")
        _refuse(context, (*choices, *mine), "--plan, which has decided that")
    given = load(Plan, plan_file) if plan_file is not None else None
    name = model or (given.model.name if given else _needed(model, "--model, or --plan,"))
    settings = TrainSettings(
        epochs, learning_rate, batch_size, warmup_ratio, seed=seed, tokens_per_batch=tokens_per_batch,
        cache_dtype=cache_dtype, frozen_dropout=frozen_dropout, all_tokens=all_tokens, packed=pack,
    )  # fmt: skip
    check_settings(settings)
    cache = _cache(cache_prefix, cache_dir, cache_limit, keep_cache)
    check_cache(settings, cache)
    columns = (text_column, pair_column, label_column, task)
    data = _data(_needed(train, "--train"), *columns, max_samples, max_length, seed)
    info = load_data(data).info
    held_out = _data(validation, *columns, None, max_length, seed) if validation is not None else None
    dev = load_data(held_out, like=info).info if held_out is not None else None
    if given is not None:
        given = _at(given, name)
    else:
        _check_preset(preset, name)
        _try_selector(pick, name, scorer, layers_attribute)
    check_model(name, max_length, given, layers_attribute, quantize)
    asked = {
        "model": name, "train": to_json(info), "validation": dev and to_json(dev), "settings": to_json(settings),
        "plan": given and to_json(given), "choice": None if given else [scorer, asdict(pick), head],
        "tuner": None if given else to_json(Spec.of(how)), "layers_attribute": layers_attribute, "quantize": quantize,
    }  # fmt: skip
    with taking(folder, TUNE_OWNED, RESULT, resume=resume, overwrite=overwrite):
        claim(folder / TUNE_OWNED[0], asked)
        if given is None:
            if (folder / "scores.json").is_file():
                scores = load(LayerScores, folder / "scores.json")
            else:
                scores = _score(
                    name, data, scorer, "token", 2 * batch_size, folder / "probe", layers_attribute, quantize, how
                )
            given = _plan(scores, pick, head, how)
            save(scores, folder / "scores.json")
            if not json_:
                out.print(scores.profile(given.layers))
        if (folder / "plan.json").is_file():
            given = load(Plan, folder / "plan.json")
        save(given, folder / "plan.json")
        if not json_:
            out.print(given)
        result = run(RunSpec(given, info, dev, None, settings), folder, f"tuning layers {_comma(given.layers)}", cache)
    _show(_summary(result, folder), json_, to_json(result))


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuses options that were given and would have no effect."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP"):
            raise ConfigError(f"--{name.replace('_', '-')} has no effect with {why}", "give the one or the other")


def _try_selector(pick: _Pick, model: str, scorer: str, layers_attribute: str | None) -> None:
    """Says that k or a layer is out of range before a model is loaded and a folder begun."""
    from wheretune.selectors.base import check_selector

    count = _layer_count(model, layers_attribute)
    check_selector(pick.selector(count, _source_selector(scorer.split(":")[0])), count)


def _at(plan: "Plan", name: str) -> "Plan":
    """The plan with the model where it is now; its weights are checked when it is applied."""
    from dataclasses import replace

    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    return replace(plan, model=replace(plan.model, name=name))


def _comma(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def _summary(result: "RunResult", folder: Path) -> Any:
    from wheretune.show.tables import table
    from wheretune.support.words import count, seconds

    rows = [
        ("trained", f"{count(result.trainable_parameters)} parameters, {result.steps} steps, "
                    f"{seconds(result.seconds['train'])}"),
        *((what, how) for what, how in result.saved.items()),
        *((split, ", ".join(map(str, metrics))) for split, metrics in result.metrics.items()),
        ("engagement", "every chosen layer changed, and nothing else did"),
        ("in", str(folder)),
        ("next", f"wheretune evaluate {folder} --data F; predict and merge likewise"),
    ]  # fmt: skip
    return table("tuned", ("", "result"), rows, left=("", "result"))


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `wheretune tune` wrote.", show_default=False)]
Data = Annotated[str | None, _option("--data", text="Data, as for --train.", metavar="F")]
Base = Annotated[
    str | None,
    _option("--model", text="Where the base model is now.", show_default="where it was", metavar="M"),
]


@app.command()
def evaluate(
    folder: Folder,
    data: Data = None,
    model: Base = None,
    batch_size: BatchSize = 32,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Measure a tuned model on labelled data.

    For example:

    wheretune evaluate runs/mine --data test.jsonl

    wheretune evaluate runs/mine --data test.jsonl --json
    """
    import numpy as np

    from wheretune.delta.opening import open_finetuned
    from wheretune.metrics.base import evaluate as measure_all
    from wheretune.records.base import to_json
    from wheretune.show.tables import table

    source = _needed(data, "--data")
    tuned = open_finetuned(folder, model)
    texts = tuned.read(source, "required")
    found = measure_all(tuned.logits(texts, batch_size), np.array(texts.labels), texts.info.task)
    rows = [(m.name, f"{m.value:.4f}", str(m.n), "higher" if m.higher_is_better else "lower") for m in found]
    shown = table(f"{folder} on {source}", ("metric", "value", "n", "better"), rows, left=("metric", "better"))
    _show(shown, json_, {"metrics": [to_json(m) for m in found]})


@app.command()
def predict(
    folder: Folder,
    data: Data = None,
    model: Base = None,
    output: Annotated[
        Path | None,
        _option("--output", text="Where the predictions go, as JSON lines.", show_default="standard output"),
    ] = None,
    batch_size: BatchSize = 32,
    config: Config = None,
) -> None:
    """Predict labels for texts; the data needs none. One JSON object a row, in the order of the rows.

    For example:

    wheretune predict runs/mine --data new.jsonl --output predictions.jsonl

    wheretune predict runs/mine --data new.csv | head
    """
    from scipy.special import softmax

    from wheretune.delta.opening import open_finetuned
    from wheretune.support.files import write_text

    source = _needed(data, "--data")
    tuned = open_finetuned(folder, model)
    texts = tuned.read(source, "ignored")
    logits = tuned.logits(texts, batch_size)
    assert tuned.manifest.data is not None
    classes = tuned.manifest.data.classes
    rows: list[dict[str, Any]]
    if classes:
        shares = softmax(logits.astype("float64"), axis=1).tolist()
        rows = [
            {"label": classes[row.index(max(row))], "probabilities": dict(zip(classes, row, strict=True))}
            for row in shares
        ]
    else:
        rows = [{"value": float(row[0])} for row in logits]
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if output is None:
        _write_out(text)
    else:
        write_text(output, text)
        _note(f"{len(rows)} predictions in {output}")


@app.command()
def merge(
    folder: Folder,
    output: Annotated[Path | None, _option("--output", text="Folder of the checkpoint.", metavar="MERGED")] = None,
    model: Base = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Write a plain Transformers checkpoint that opens without wheretune.

    For example:

    wheretune merge runs/mine --output merged
    """
    from wheretune.delta.merging import merge as merge_into
    from wheretune.delta.opening import open_finetuned

    target = _needed(output, "--output")
    if target.exists():
        raise OutputError(f"{target} already exists", "choose another --output")
    plain = merge_into(open_finetuned(folder, model), target)
    how = "AutoModelForSequenceClassification" if plain else "AutoModel"
    said = f'{target} opens with {how}.from_pretrained("{target}")'
    if plain:
        said += "; it was seen to give the same logits"
    else:
        said += (
            ". It is the tuned base model without its head: no sequence classifier of this family computes this "
            "head, whose weights lie beside it in head.safetensors. To use both, keep the delta and `wheretune predict`"
        )
    _show(Text(said), json_, {"output": str(target), "opens_with": how, "head_included": plain})


@app.command()
def compare(
    output: Annotated[Path | None, _option("--output", text="Folder of the comparison.", metavar="DIR")] = None,
    model: Model = None,
    train: Train = None,
    validation: Validation = None,
    test: Annotated[str | None, _option("--test", text="Data the table is about.", metavar="F")] = None,
    methods: Annotated[
        str,
        _option(
            "--methods",
            text="With commas: full, prism, head-only, and any [scorer+][selector+][tuner], such as cka+lora or "
            "top+adapter; a tuner alone tunes all layers, a scorer brings the selector of its source.",
        ),
    ] = "full,prism,top,bottom,random,head-only",
    recipe: Annotated[
        str | None,
        _option(
            "--recipe",
            text="A paper's methods and hyperparameters, with the numbers it printed: cka-lora-encoder, "
            "cka-lora-decoder or olft; options given beside it have the last word.",
            show_default="none",
            callback=_read_recipe,
            is_eager=True,
        ),
    ] = None,
    k: K = None,
    ratio: Ratio = None,
    seeds: Annotated[str, _option("--seeds", text="A run a seed.")] = "0,42,100",
    learning_rates: Annotated[
        str,
        _option("--learning-rates", text="Candidates; each method takes its best on the validation data."),
    ] = "5e-5",
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    tokens_per_batch: TokensPerBatch = None,
    warmup_ratio: WarmupRatio = 0.0,
    frozen_dropout: FrozenDropout = False,
    all_tokens: AllTokens = False,
    pack: Pack = False,
    cache_prefix: CachePrefix = "auto",
    cache_dtype: CacheType = "fp32",
    cache_limit: CacheLimit = None,
    head: HeadOption = "last-token",
    scorer: ScorerOption = "cosine-centrality",
    text_column: TextColumn = "text",
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    task: TaskOption = "auto",
    max_samples: Annotated[
        int | None,
        _option("--max-samples", text="Train on so many rows, the same for all.", show_default="all"),
    ] = None,
    max_length: MaxLength = None,
    resume: Annotated[bool, _option("--resume", text="Run only what is missing, as compare does anyway.")] = True,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Compare ways of choosing layers: the same data, batches and budget for each, several seeds.

    Started again with the same options, it runs only what is missing.

    For example:

    wheretune compare --model M --train train.jsonl --validation dev.jsonl --test test.jsonl
    --methods full,prism,top,bottom,random,head-only --k 3 --seeds 0,42,100 --output runs/compared

    wheretune compare --config compare.yaml --learning-rates 1e-5,2e-5,5e-5
    """
    from dataclasses import asdict

    from wheretune import catalog
    from wheretune.model.opening import is_causal, layer_count
    from wheretune.records.runs import TrainSettings, check_cache
    from wheretune.show.tables import table
    from wheretune.studies.grid import Comparison
    from wheretune.studies.running import OWNED
    from wheretune.studies.running import compare as run_comparison
    from wheretune.studies.tables import COLUMNS, cells, lines, title, write_tables
    from wheretune.support.files import taking

    folder = _needed(output, "--output")
    _check_names(scorer, head)
    paper = catalog.every("recipe")[recipe] if recipe is not None else None
    if paper is not None and paper.causal is not None and is_causal(_needed(model, "--model")) is not paper.causal:
        raise ConfigError(
            f"--recipe {recipe} is for {'decoders' if paper.causal else 'encoders'}, and the model is none",
            "take cka-lora-encoder for encoders, cka-lora-decoder for decoders",
        )
    common = (text_column, pair_column, label_column, task)
    data = _data(_needed(train, "--train"), *common, max_samples, max_length, 0)
    held = _data(_needed(test, "--test"), *common, None, max_length, 0)
    dev = None if validation is None else _data(validation, *common, None, max_length, 0)
    name = _needed(model, "--model")
    what = Comparison(
        model=str(Path(name).resolve()) if Path(name).is_dir() else name,
        train=data,
        validation=dev,
        test=held,
        methods=tuple(dict.fromkeys(part.strip() for part in methods.split(",") if part.strip())),
        k=_count(k, None if recipe is not None and k is not None else ratio, layer_count(name)),
        seeds=tuple(dict.fromkeys(_numbers(seeds, int, "--seeds"))),
        learning_rates=tuple(sorted(set(_numbers(learning_rates, float, "--learning-rates")))),
        scorer=scorer,
        head=head,
        settings=TrainSettings(
            epochs=epochs,
            batch_size=batch_size,
            warmup_ratio=warmup_ratio,
            tokens_per_batch=tokens_per_batch,
            cache_dtype=cache_dtype,
            frozen_dropout=frozen_dropout,
            all_tokens=all_tokens,
            packed=pack,
        ),
    )
    cache = _cache(cache_prefix, None, cache_limit, False)
    check_cache(what.settings, cache)
    for option, value in (
        ("--methods", what.methods),
        ("--seeds", what.seeds),
        ("--learning-rates", what.learning_rates),
    ):
        if not value:
            raise ConfigError(f"{option} is empty", "give at least one")
    with taking(folder, OWNED, "table.md", resume=resume, overwrite=overwrite):
        rows = run_comparison(what, folder, cache)
        write_tables(what, rows, folder)
    found = lines(what, rows)
    for row in rows:
        if row.searched and not json_:
            tried = ", ".join(f"{rate:g}: {value:.4f}" for rate, value in row.searched.items())
            out.print(Text(f"{row.method}: learning rate {row.learning_rate:g} was best on validation ({tried})"))
        for where, why in row.failures.items():
            err.print(Text(f"failed: {row.method} in {where}: {why}", style="bold red"))
    shown = table(title(what, rows), COLUMNS, (cells(line) for line in found), left=("method", "layers", "test"))
    printed = [asdict(one) for one in paper.references] if paper is not None else []
    _show(shown, json_, {"methods": found} | ({"printed_in_the_paper": printed} if paper is not None else {}))
    if paper is not None and not json_:
        said = f"{paper.paper} printed, on other models and data, so to look at and not to match:"
        out.print(Text(said), soft_wrap=True)
        for one in paper.references:
            out.print(table(one.where, one.columns, one.rows, left=one.columns[:1]))
        out.print(Text(f"decided where it is silent: {paper.decided}"), soft_wrap=True)
    _note(f"tables in {folder / 'table.md'} and {folder / 'results.csv'}")
    if any(row.failures for row in rows):
        raise typer.Exit(1)


@app.command("inspect")
def inspect_command(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Local folder or hub name.")] = None,
    layers_attribute: LayersAttribute = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Show the layers of a model, and how many parameters each tuner would train in each. Loads no weights.

    For example:

    wheretune inspect bert-base-cased
    """
    from wheretune.pipeline import inspect_model
    from wheretune.show.tables import table
    from wheretune.support.words import count

    found = inspect_model(_needed(model, "MODEL"), layers_attribute)
    tuners = list(found["layers"][0]["tuners"])
    rows = [
        (str(one["index"]), one["path"], count(one["parameters"]),
         *("–" if n is None else count(n) for n in one["tuners"].values()))
        for one in found["layers"]
    ]  # fmt: skip
    kind = "decoder" if found["causal"] else "encoder"
    title = f"{found['model']}: {kind}, width {found['hidden_size']}, {count(found['parameters'])} parameters"
    _show(table(title, ("layer", "path", "parameters", *tuners), rows, left=("path",)), json_, found)


@app.command()
def cost(
    model: Annotated[
        str | None, _option("--model", text="Local folder or hub name.", show_default="the plan's", metavar="M")
    ] = None,
    plan_file: Annotated[
        Path | None, _option("--plan", text="What `wheretune plan` wrote.", show_default=False)
    ] = None,
    data: Data = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = None,
    max_samples: MaxSamples = None,
    max_length: MaxLength = None,
    seed: Seed = 0,
    epochs: Epochs = 3,
    batch_size: BatchSize = 16,
    measure: Annotated[
        bool, _option("--measure", text="Load the model and time a few steps of the plan and of full fine-tuning.")
    ] = False,
    output: Annotated[
        Path | None, _option("--output", text="Where the numbers go, as JSON.", show_default="none")
    ] = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Say what a plan costs beside full fine-tuning, in FLOPs and memory, and what each saving brings.

    It loads no weights and trains nothing, unless --measure asks this machine.

    For example:

    wheretune cost --plan plan.json --data train.jsonl

    wheretune cost --model bert-base-cased --plan plan.json --data train.jsonl --epochs 5 --batch-size 32 --measure
    """
    from dataclasses import replace

    from wheretune.pipeline import cost_of
    from wheretune.records.base import load, save, to_json
    from wheretune.records.plan import Plan
    from wheretune.records.runs import TrainSettings
    from wheretune.training.timing import time_steps as time_it

    given = load(Plan, _needed(plan_file, "--plan"))
    source = _needed(data, "--data")
    spec = _data(source, text_column, pair_column, None, "auto", max_samples, max_length, seed)
    target = None if output is None else _file(output)
    found = cost_of(given, spec, model, epochs=epochs, batch_size=batch_size)
    if measure:
        settings = TrainSettings(epochs, batch_size=batch_size)
        found = replace(found, measured=time_it(given, spec, model, settings=settings))
    if target is not None:
        save(found, target)
    _show(found, json_, to_json(found))
    if target is not None:
        _note(f"the cost is in {target}")


@app.command()
def export(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What `wheretune plan` wrote.", show_default=False)],
    to: Annotated[str, _option("--to", text="peft, trl, axolotl or llama-factory.")] = "peft",
    output: Annotated[Path | None, _option("--output", text="Where it goes.", show_default="standard output")] = None,
    config: Config = None,
) -> None:
    """Write a plan as a piece of another tool's config, to choose with wheretune and train with that tool.

    For example:

    wheretune export plan.json --to axolotl --output unfrozen.yaml
    """
    from wheretune.exports.base import export as export_to
    from wheretune.records.base import load
    from wheretune.records.plan import Plan
    from wheretune.support.files import write_text

    text = export_to(load(Plan, plan_file), to)
    if output is None:
        _write_out(text)
    else:
        write_text(output, text)
        _note(f"the plan for {to} is in {output}")


@app.command()
def demo(
    output: Annotated[Path, _option("--output", text="Folder of the demo.", metavar="DIR")] = Path("runs/demo"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Score, choose, tune and compare on a real model and real articles that PyPI packages carry. No network.

    For example:

    wheretune demo --output runs/demo
    """
    from wheretune import demo as room
    from wheretune.show.tables import table
    from wheretune.support.files import claim, taking
    from wheretune.support.words import count, seconds

    model = room.model_folder()
    with taking(output, room.OWNED, "full/result.json", resume=resume, overwrite=overwrite):
        claim(output / room.OWNED[0], {"version": __version__})
        out.print(Text("all-MiniLM-L6-v2 (6 layers) and BBC news articles of 5 classes, both from PyPI packages."))
        done = room.demo(output, out.print)
    chosen, full = done.chosen, done.full
    paid = chosen.training_seconds + done.scores.seconds
    rows = []
    for name, result, score_time, time in (
        (f"layers {_comma(done.plan.layers)}", chosen, seconds(done.scores.seconds), paid),
        ("full fine-tuning", full, "–", full.training_seconds),
    ):
        best = result.metrics["test"][0]
        rows.append((
            name, f"{best.name} {best.value:.4f}", str(best.n), count(result.trainable_parameters),
            seconds(result.training_seconds), score_time, f"{full.training_seconds / time:.2f}x",
        ))  # fmt: skip
    columns = ("tuned", "held-out articles", "n", "trainable", "train time", "score time", "speed-up")
    out.print(
        table(
            "the same batches, side by side (caching and scoring are counted)",
            columns,
            rows,
            left=("tuned",),
        )
    )
    out.print(Text(f"In {output}: scores.json, plan.json, profile.png, similarity.png and the delta in tuned/."))
    out.print(Text(
        "On your own data (a file with the columns text and label):\n"
        f"  wheretune tune --model {model} --train my.jsonl --output runs/mine\n"
        "  wheretune evaluate runs/mine --data my-test.jsonl"
    ), soft_wrap=True)  # fmt: skip


# --- the way in ---------------------------------------------------------------------------------


class _Notes(logging.Handler):
    """Prints what the rooms have to say, each sentence once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            _note(message)


def _quiet() -> None:
    """Keeps other libraries' chatter off the screen; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|huggingface_hub)(\..*)?")
    logging.getLogger("wheretune").handlers = [_Notes()]
    logging.getLogger("wheretune").propagate = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: every error of the user's in one line, with code 2."""
    _quiet()
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except WheretuneError as error:
        _fail(str(error))
    except USAGE_ERROR as error:
        if error.format_message():
            _fail(f"{error.format_message()}; see --help")
        code = 2  # nothing was asked for, and the help has been printed
    except KeyboardInterrupt:
        code = STOPPED
    if code == STOPPED:
        err.print(Text("stopped; started again, what trains goes on from the last finished epoch", style="bold"))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(2)
