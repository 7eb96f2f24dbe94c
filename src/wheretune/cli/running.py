"""`tune`, `run`, `compare` and `demo`: what trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheretune.cli.choice import ChoiceOptions, TuningOptions, refuse_unread, scorer_of
from wheretune.cli.config import read_yaml
from wheretune.cli.groups import option, refuse
from wheretune.cli.held_out import JudgedOptions
from wheretune.cli.options import (
    AsJson,
    BaseOptions,
    Config,
    FolderOptions,
    Metrics,
    ModelOptions,
    Scorer,
    Seed,
    absolute,
    metric_names,
    there,
)
from wheretune.cli.printing import note, show
from wheretune.cli.reporting import check_axes, plan_of, selector_that_fits
from wheretune.cli.training import HubOptions, KeptCacheOptions, SavingOptions, TrainingOptions, WatchOptions, rate_of
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.records.runs import CacheSettings, RunResult, RunSpec
    from wheretune.session import Session

RESULT = "result.json"
OWNED = (
    "run.json", "tune.json", "probe", "best.safetensors", "runs",
    "scores.json", "scores-unfinished*.safetensors", "eof-layers.json", "eof-layers-unfinished*.safetensors",
    "plan.json", "checkpoint-*", "prefix-*",
    "delta.safetensors", "adapter", "README.md", "wheretune.json", "predictions-*.jsonl", RESULT,
)  # fmt: skip
DECIDED = (
    "select", "k", "ratio", "near", "budget", "budget_of", "layers", "stack", "preset", "scorer", "tuner",
    "tuner_option", "head", "schedule", "layers_attribute", "quantize",
)  # fmt: skip


def tune(
    context: typer.Context,
    model: ModelOptions,
    data: JudgedOptions,
    choice: ChoiceOptions,
    tuning: TuningOptions,
    training: TrainingOptions,
    savings: SavingOptions,
    cache: KeptCacheOptions,
    watching: WatchOptions,
    to: FolderOptions,
    hub: HubOptions,
    plan_file: Annotated[
        Path | None,
        option("--plan", "What `wheretune plan` wrote.", default="made here", rich_help_panel="Choice"),
    ] = None,
    scorer: Scorer = "cosine-centrality",
    metric: Metrics = None,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Tune the chosen layers; without a plan, score and choose first.

    The folder holds only what changed (delta.safetensors) and all it takes to use it. A run that was stopped goes on
    from its last finished epoch when it is started again; one that has ended says so and is shown again. Its result
    holds the whole spec, with which `wheretune run` makes it again.

    For example:

    wheretune tune --model bert-base-cased --train train.jsonl --output runs/mine

    wheretune tune --plan plan.json --train train.jsonl --validation dev.jsonl --output runs/mine --epochs 5

    wheretune tune --model bert-base-cased --train train.jsonl --tuner lora:r=8 --output runs/lora

    wheretune run runs/mine/result.json --output runs/again
    """
    from wheretune.records.runs import RunSpec, check_cache
    from wheretune.records.scores import ENOUGH, Reading

    folder, names = to.folder, metric_names(metric)
    if training.tokens_per_batch is not None:
        refuse(context, ("batch_size",), "--tokens-per-batch")
    settings, kept = (
        training.settings(savings, learning_rate=rate_of(training.learning_rate), seed=seed),
        cache.settings(),
    )
    check_cache(settings, kept)
    train, judged = data.spec_of_train(seed), data.judged(seed)
    if plan_file is not None:
        refuse(context, DECIDED, "--plan, which has decided that")
        given = plan_of(plan_file)
        spec = RunSpec(
            there(model.over(given.model.spec)), train, **judged, metrics=names, settings=settings, plan=given
        )
        _tune(spec, folder, to, kept, watching, hub, json_)
        return
    axes, asked = tuning.specs(), scorer_of(scorer)
    refuse_unread(context, {"states", "language-model"})
    choice = choice.through(context, axes["schedule"]).checked(context, asked, seed)
    spec = RunSpec(
        model.spec("--model, or --plan,"), train, **judged, scorer=asked,
        reading=Reading(batch_size=2 * training.batch_size, seed=seed, most=ENOUGH), **axes, metrics=names,
        settings=settings,
    )  # fmt: skip
    _tune(spec, folder, to, kept, watching, hub, json_, lambda: selector_that_fits(choice, spec.model, asked, seed))


def run(
    base: BaseOptions,
    cache: KeptCacheOptions,
    watching: WatchOptions,
    to: FolderOptions,
    hub: HubOptions,
    spec_file: Annotated[
        Path, typer.Argument(metavar="SPEC", help="A run's result.json, or a spec in YAML or JSON.", show_default=False)
    ],
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Make a result again from its spec: the same model, data, choices and settings.

    A spec is a YAML or JSON file with the fields of a run, of which `model` and `train` must be there; every result
    holds one.

    For example:

    wheretune run runs/mine/result.json --output runs/again

    wheretune run spec.yaml --output runs/new --device cuda:0
    """
    from wheretune.data.sources import located
    from wheretune.records.base import read_json
    from wheretune.records.runs import as_spec, check_cache

    content = read_json(spec_file) if spec_file.suffix == ".json" else read_yaml(spec_file, "SPEC")
    spec = as_spec(content, str(spec_file))
    kept = cache.settings()
    check_cache(spec.settings, kept)
    model = there(replace(base.over(spec.model), name=absolute(base.model or spec.model.name)))
    parts = {name: getattr(spec, name) for name in ("train", "validation", "test")}
    parts = {name: part and replace(part, source=located(part.source)) for name, part in parts.items()}
    check_axes(spec, ("scorer", "selector", "tuner", "head", "schedule"), str(spec_file))
    if spec.plan is not None:
        check_axes(spec.plan, ("tuner", "head", "schedule"), str(spec_file))
    _check_metrics(spec)
    _tune(replace(spec, model=model, **parts), to.folder, to, kept, watching, hub, json_)


def _check_metrics(spec: RunSpec) -> None:
    """Refuses metrics where nothing is judged, and such as there are none.

    Raises:
        ConfigError: As it says.
    """
    from wheretune import catalog

    for name in spec.metrics:
        catalog.find("metric", name)
    if spec.metrics and spec.validation is None and spec.test is None:
        raise ConfigError("a metric needs data to be judged on", "give validation or test data", "metrics")
    if spec.settings.eval_strategy != "no" and spec.validation is None:
        raise ConfigError("nothing can be judged in training", "give validation data", "eval_strategy")


def _tune(
    spec: RunSpec,
    folder: Path,
    to: FolderOptions,
    cache: CacheSettings,
    watching: WatchOptions,
    hub: HubOptions,
    json_: bool,
    selector: Callable[[], Spec] | None = None,
) -> None:
    """Runs a spec and says what came of it; data is refused before the model is opened, all else before the folder."""
    from wheretune.records.base import to_json
    from wheretune.records.model import check_trains
    from wheretune.session import Session
    from wheretune.support.files import check_place, taking
    from wheretune.support.processes import writes
    from wheretune.training.arguments import check_arguments, check_judging, check_watch

    watch = watching.settings()
    check_arguments(spec.settings, watch)
    check_trains(spec.model)
    check_judging(spec.settings, spec.tuner if spec.plan is None else spec.plan.tuner)
    check_watch(spec, watch, cache)
    hub.checked()
    _check_metrics(spec)
    check_place(folder, OWNED)
    session = Session(shared=False, on_host=watch.fsdp)
    read_all(session, spec)
    if selector is not None:
        spec = replace(spec, selector=selector())
    ended = (folder / RESULT).is_file() and not to.overwrite
    with taking(folder, OWNED, overwrite=to.overwrite) if writes() else nullcontext():
        from wheretune import pipeline

        result = pipeline.tune(
            spec,
            folder,
            session=session,
            cache=cache,
            watch=watch,
            show=(lambda _: None) if json_ else _profile_and_plan(spec),
        )
    if ended:  # with the same settings: others were refused
        note(f"nothing to do: finished {result.provenance.get('time', 'earlier')}; result in {folder / RESULT}")
    show(None if json_ else _summary(result, folder), json_, to_json(result))
    if writes() and (address := hub.push(folder)) is not None:
        note(f"uploaded to {address}")


def read_all(session: Session, spec: RunSpec) -> None:
    """Reads the data of a run, so that it is refused before a model is opened.

    Raises:
        DataError: Some cannot be read, or is not of the training data's task and classes.
    """
    train = session.data(spec.train).info
    for part in (spec.validation, spec.test):
        if part is not None:
            session.data(part, like=train)


def _profile_and_plan(spec: RunSpec) -> Callable[[object], None]:
    """Shows the scores once the plan is known, with the chosen layers marked, and then the plan at this run's cost."""
    from wheretune import planning
    from wheretune.records.plan import Plan
    from wheretune.records.scores import LayerScores

    scored: list[LayerScores] = []

    def hand(made: object) -> None:
        if isinstance(made, LayerScores):
            scored.append(made)
        if isinstance(made, str):
            show(made)
        if isinstance(made, Plan):
            for scores in scored:
                show(scores.profile(made.layers))
            how = spec.settings
            show(replace(made, cost=planning.cost(made, epochs=how.epochs, batch_size=how.batch_size)))

    return hand


def _summary(result: RunResult, folder: Path) -> object:
    from wheretune import catalog
    from wheretune.show.tables import table
    from wheretune.support.words import count, counted, seconds

    moves = catalog.build("schedule", result.plan.schedule).moves
    due = "layer that was ever due" if moves else "chosen layer"
    rows = [
        (
            "trained",
            f"{count(result.trainable_parameters)} parameters, {counted(result.steps, 'step')}, "
            f"{seconds(result.seconds['train'])}",
        ),
        *result.saved.items(),
        *((split, ", ".join(map(str, metrics))) for split, metrics in result.metrics.items()),
        ("engagement", f"every {due} changed, and nothing else did"),
        ("in", str(folder)),
        ("next", f"wheretune evaluate {folder} --data F; predict and merge likewise"),
    ]
    return table("tuned", ("", "result"), rows, left=("", "result"))
