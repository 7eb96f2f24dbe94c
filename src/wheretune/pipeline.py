"""RunSpec -> RunResult: the whole pipeline.

A run's folder holds `run.json` (the spec), while it trains `checkpoint-STEP/`, and when it is finished the delta
(`delta.safetensors`, for PEFT's tuners `adapter/`, `wheretune.json`) and, last of all, `result.json`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from wheretune import catalog, planning
from wheretune.applying import apply
from wheretune.cost.flops import EPOCHS
from wheretune.cost.price import BATCH_SIZE
from wheretune.data.batches import collator
from wheretune.data.tokens import encode
from wheretune.delta.saving import remove_delta, save_delta
from wheretune.errors import ConfigError, DataError, PlanError, WheretuneError
from wheretune.heads.headed import headed
from wheretune.judging import measure
from wheretune.model.finding import check_one_sequence, find_layers
from wheretune.model.identity import check_plan
from wheretune.model.inputs import max_tokens
from wheretune.model.opening import load_language_model, load_model, load_tokenizer, skeleton
from wheretune.records.base import load, save, to_json
from wheretune.records.model import ModelInfo
from wheretune.records.runs import RunResult, check_settings
from wheretune.records.scores import LayerScore
from wheretune.savings.together import lean
from wheretune.scorers.base import Scorer
from wheretune.scoring.one_pass import finish, gather
from wheretune.support.files import claim, sweep
from wheretune.support.hub import resolve
from wheretune.support.log import log
from wheretune.support.provenance import peak_memory, provenance, versions
from wheretune.tasks.base import load_data
from wheretune.training.checkpoints import checkpoints
from wheretune.training.loop import train
from wheretune.trials import LayerProbe, place, probe

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.stack import LayerStack
    from wheretune.records.cost import Cost
    from wheretune.records.data import DataInfo, DataSpec
    from wheretune.records.model import Quantize
    from wheretune.records.plan import Plan
    from wheretune.records.runs import CacheSettings, RunSpec
    from wheretune.records.scores import LastState, LayerScores, Pooling
    from wheretune.scoring.one_pass import Gathered, Settle
    from wheretune.tuners.base import Tuner

SPEC, RESULT = "run.json", "result.json"
AnyScorer = Scorer | LayerProbe


class PassSettings(TypedDict, total=False):
    """How `scorers.base.gather` reads the data."""

    batch_size: int
    pooling: Pooling
    last: LastState
    standardise: bool
    settle: Settle | None
    shard: tuple[int, int]


def score_model(
    name: str,
    data: DataSpec,
    scorers: Sequence[AnyScorer],
    folder: Path | None = None,
    layers_attribute: str | None = None,
    quantize: Quantize | None = None,
    **how: Unpack[PassSettings],
) -> list[LayerScores]:
    """Loads a model and data by name and scores the layers: all scorers but the layer probe in one pass.

    Args:
        name: A local folder or a hub name.
        data: The data.
        scorers: Any number.
        folder: Where layer probes work, each in its `probing.place`; they resume there.
        layers_attribute: Where the layers are, if `find_layers` must be told.
        quantize: Hold the linear maps in 4 or 8 bits; scorers that read meanings open the model as it is.
        how: The settings of `scorers.base.gather`.

    Returns:
        The scores in the order of `scorers`.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
    """
    passing = [scorer for scorer in scorers if not isinstance(scorer, LayerProbe)]
    scored: dict[AnyScorer, LayerScores] = {}
    if passing:
        scored |= zip(
            passing, finish(gather_model(name, data, passing, layers_attribute, quantize, **how)), strict=True
        )
    for scorer in scorers:
        if isinstance(scorer, LayerProbe):
            if folder is None:
                raise ConfigError("a layer probe trains, and needs a folder to work in", "give --output")
            revision = resolve(name).get("revision")
            tokenizer = load_tokenizer(name, revision)
            opening = partial(load_model, name, revision, quantize)
            own = place(folder, scorer)
            scored[scorer] = probe(scorer, opening, tokenizer, load_data(data), own, revision, layers_attribute)
    return [scored[scorer] for scorer in scorers]


def gather_model(
    name: str,
    data: DataSpec,
    scorers: Sequence[Scorer],
    layers_attribute: str | None = None,
    quantize: Quantize | None = None,
    **how: Unpack[PassSettings],
) -> Gathered:
    """Loads a model and data by name and feeds every scorer; see `scorers.base.gather`."""
    reads = {scorer.card.reads for scorer in scorers}
    needed = "gradients" in reads or ("meanings" in reads and data.target_column is None)
    try:
        texts = load_data(data, labels="required" if needed else "optional")
    except DataError as error:
        if needed:
            raise
        texts = load_data(data, labels="ignored")  # says what is wrong if it is not the labels
        log.warning("the labels are left aside: %s", error.problem)
    model = (load_language_model if "meanings" in reads else load_model)(name, quantize=quantize)
    revision = resolve(name).get("revision")
    return gather(find_layers(model, layers_attribute), load_tokenizer(name), texts, scorers, revision=revision, **how)


def inspect_model(name: str, layers_attribute: str | None = None) -> dict[str, Any]:
    """The layers of a model, without its weights: index, path, parameters, and what each tuner would train there.

    Returns:
        Plain data: `model`, `hidden_size`, `causal`, `parameters` and `layers`, whose `tuners` have the count of every
        tuner with its default settings, or None where it has nothing to attach to.

    Raises:
        ModelError: The model cannot be opened, or its layers are not found.
    """
    stack = find_layers(skeleton(name), layers_attribute)
    total = sum(parameter.numel() for parameter in stack.base.parameters())
    info = ModelInfo(name, None, "", len(stack), stack.hidden_size, total, stack.causal, layers_attribute)
    layers = _unscored(stack)

    def trained(tuner: Tuner, layer: int) -> int | None:
        try:
            return tuner.count(info, layers, (layer,))
        except WheretuneError:
            return None

    tuners = {name: made() for name, made in catalog.every("tuner").items() if made.needs_layers}
    each = [to_json(one) | {"tuners": {n: trained(t, one.index) for n, t in tuners.items()}} for one in layers]
    for one in each:
        del one["score"], one["std"], one["excluded"]
    return {
        "model": name,
        "hidden_size": stack.hidden_size,
        "causal": stack.causal,
        "parameters": total,
        "layers": each,
    }


def _unscored(stack: LayerStack) -> list[LayerScore]:
    """The layers with their paths, sizes and parts, and without a score."""
    return [
        LayerScore(
            layer.index, None, None, layer.path, sum(p.numel() for p in layer.module.parameters()), None, layer.parts
        )
        for layer in stack.layers
    ]


def cost_of(
    plan: Plan, data: DataSpec, model: str | None = None, *, epochs: int = EPOCHS, batch_size: int = BATCH_SIZE
) -> Cost:
    """What a plan costs on some texts, told from the model's shapes and the texts' tokens; loads no weights.

    Args:
        plan: The plan.
        data: The texts; their labels are not looked at.
        model: Where the plan's model is now, if not where it was.
        epochs: Passes over the texts.
        batch_size: Texts in a batch.

    Raises:
        ConfigError: There is no epoch or nothing in a batch.
        DataError: The texts cannot be read.
        ModelError: The model or its tokenizer cannot be opened.
        PlanError: The plan was made for a model of other layers.
    """
    for option, value in (("--epochs", epochs), ("--batch-size", batch_size)):
        if value < 1:
            raise ConfigError(f"{option} is {value}", "give 1 or more")
    name = plan.model.name if model is None else model
    stack = find_layers(skeleton(name, plan.model.revision), plan.model.layers_attribute)
    check_one_sequence(stack.base)
    layers = _unscored(stack)
    _check_layers(stack, plan, name)
    tokenizer = load_tokenizer(name, plan.model.revision)
    texts = load_data(data, labels="ignored")
    rows = encode(texts, tokenizer, max_tokens(stack.base, tokenizer, data.max_length))
    return planning.cost_of(
        plan.model,
        layers,
        plan.layers,
        catalog.build("tuner", plan.tuner),
        catalog.build("head", plan.head),
        plan.cost.total_parameters - plan.model.parameters,
        sum(len(row["input_ids"]) for row in rows) / len(rows),
        len(rows),
        epochs=epochs,
        batch_size=batch_size,
    )


def _check_layers(stack: LayerStack, plan: Plan, name: str) -> None:
    """Makes sure, without the weights, that a model has the layers that `plan` was made for."""
    shape, there = (plan.model.layers, plan.model.hidden_size), (len(stack), stack.hidden_size)
    if there == shape and all(
        stack.layers[one.index].path == one.path and stack.layers[one.index].parts.maps == one.parts.maps
        for one in plan.chosen
    ):
        return
    told = f"{there[0]} layers of width {there[1]}" if there != shape else "layers of other maps"
    raise PlanError(
        f"the plan was made for {plan.model.name} ({shape[0]} layers of width {shape[1]}), but {name} has {told}",
        "give the plan's model, or score this one and make a plan for it",
    )


def check_model(
    name: str,
    max_length: int | None,
    plan: Plan | None = None,
    layers_attribute: str | None = None,
    quantize: Quantize | None = None,
) -> None:
    """Makes sure, before anything is written, that a model can be read, and that `plan` was made for it.

    Raises:
        ModelError: Its layers or its tokenizer cannot be found, it is an encoder-decoder, or it cannot read texts of
            `max_length`.
        PlanError: The plan was made for another one.
        ConfigError: The plan names a tuner, head or schedule that does not exist.
    """
    revision = None if plan is None else plan.model.revision
    attribute = layers_attribute if plan is None else plan.model.layers_attribute
    quantize = quantize if plan is None else plan.model.quantize
    stack = find_layers(load_model(name, revision, quantize), attribute)
    check_one_sequence(stack.base)
    max_tokens(stack.base, load_tokenizer(name, revision), max_length)
    if plan is not None:
        check_plan(stack, plan)
        catalog.build("tuner", plan.tuner)
        catalog.build("head", plan.head)
        catalog.build("schedule", plan.schedule)


def run(spec: RunSpec, folder: Path, description: str = "training", cache: CacheSettings | None = None) -> RunResult:
    """Trains, proves the engagement, evaluates and saves; a finished run is read back, a stopped one goes on.

    Args:
        spec: Everything needed to repeat the run.
        folder: Its own folder; holds nothing but this run.
        description: What the progress bar says.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
        OutputError: The folder holds another run.
    """
    check_settings(spec.settings)
    catalog.build("schedule", spec.plan.schedule)
    sweep(folder)
    claim(folder / SPEC, to_json(spec))
    if (folder / RESULT).is_file():
        _leave_no_checkpoint(folder)
        return load(RunResult, folder / RESULT)
    named = spec.plan.model
    base = load_model(named.name, named.revision, named.quantize)
    tokenizer = load_tokenizer(named.name, named.revision)
    data = _same(spec.train)
    splits = {
        name: _same(info, like=data.info)
        for name, info in (("validation", spec.validation), ("test", spec.test))
        if info is not None
    }
    attribute = spec.plan.model.layers_attribute
    model = headed(base, catalog.build("head", spec.plan.head), data, spec.settings.seed, attribute)
    tuned = apply(model, spec.plan, spec.settings.seed, frozen_dropout=spec.settings.frozen_dropout)
    length = max_tokens(base, tokenizer, spec.train.spec.max_length)
    collate = collator(tokenizer)
    with peak_memory() as memory:
        rows = encode(data, tokenizer, length)
        with lean(tuned, rows, collate, spec.settings, folder, cache) as saved:
            trained = train(model, rows, collate, spec.settings, folder, description, tuned.followers)
    remove_delta(folder)  # of a sitting that was killed before its result was written
    save_delta(tuned, folder, data=data.info, max_length=length)
    started = time.perf_counter()
    metrics = {name: measure(model, split, encode(split, tokenizer, length), collate) for name, split in splits.items()}
    result = RunResult(
        spec=spec,
        metrics=metrics,
        trainable_parameters=tuned.trainable_parameters,
        seconds={"train": trained.seconds, "cache": saved.cache.seconds, "evaluate": time.perf_counter() - started},
        peak_memory_bytes=memory.get("peak"),
        steps=trained.steps,
        versions=versions(),
        provenance=provenance(),
        saved=saved.told,
    )
    save(result, folder / RESULT)
    _leave_no_checkpoint(folder)
    return result


def _same(info: DataInfo, like: DataInfo | None = None) -> TextData:
    """The data that `info` describes.

    Raises:
        DataError: It is no longer what it was when the run was planned.
    """
    data = load_data(info.spec, like=like)
    if data.info.hash != info.hash:
        raise DataError(
            f"{info.spec.source} has changed since the run was begun", "start the run over with --overwrite"
        )
    return data


def _leave_no_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)
