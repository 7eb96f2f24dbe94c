"""The whole way on one screen: model + data -> scores -> plan -> tuned model -> result.

A run's folder holds `run.json` (what it is for), `scores.json` and `plan.json` where they are made here, and while it
trains `checkpoint-STEP/`. When it is finished it holds the delta (`delta.safetensors`, for PEFT's tuners `adapter/`,
`wheretune.json`), a file of predictions per judged split and, last of all, `result.json`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune import catalog, ordering, planning, scheduling, trials
from wheretune.applying import apply
from wheretune.data.tokens import encode, mean_length
from wheretune.delta.card import write_card
from wheretune.delta.saving import remove_delta, save_delta
from wheretune.errors import WheretuneError
from wheretune.heads.headed import headed
from wheretune.judging import judge, measures, save_predictions
from wheretune.model.finding import check_one_sequence
from wheretune.model.identity import check_layers, check_plan
from wheretune.model.inputs import max_tokens
from wheretune.model.opening import load_tokenizer, outline, own_head
from wheretune.records.base import Spec, load, save, to_json
from wheretune.records.plan import Plan
from wheretune.records.runs import RunResult, RunSpec, TrainSettings, WatchSettings, load_result
from wheretune.records.scores import LayerScores, Reading
from wheretune.savings.together import saving
from wheretune.scoring.one_pass import finish, gather
from wheretune.selectors.base import TakesK
from wheretune.session import Session
from wheretune.support.files import claim, sweep
from wheretune.support.log import log
from wheretune.support.provenance import peak_memory, provenance, versions
from wheretune.tasks.base import task_of
from wheretune.training.best import BEST, decisive_metric, judge_of, kept_weights
from wheretune.training.checkpoints import checkpoints
from wheretune.training.clock import Clock
from wheretune.training.engagement import EngagementCallback
from wheretune.training.loop import train

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.records.cost import Cost
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.runs import CacheSettings
    from wheretune.scoring.one_pass import PassState, Settle

RUN, SCORES, PLAN, RESULT, PROBES = "run.json", "scores.json", "plan.json", "result.json", "probe"


def score(
    model: ModelSpec,
    data: DataSpec,
    scorers: Sequence[Spec],
    reading: Reading,
    *,
    folder: Path | None = None,
    session: Session | None = None,
    settle: Settle | None = None,
) -> list[LayerScores]:
    """Scores the layers: all scorers but those that train in one pass, these by trials.

    Args:
        model: Which model.
        data: The data.
        scorers: Any number.
        reading: How the texts are read.
        folder: Where scorers that train work; they resume there.
        session: What is open already.
        settle: Ends the pass as soon as a choice is settled; see `scoring.confidence`.

    Returns:
        The scores in the order of `scorers`.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
    """
    session = session or Session()
    made = {spec: catalog.build("scorer", spec) for spec in scorers}
    passing = [scorer for scorer in made.values() if not trials.trains(scorer)]
    scored: dict[Any, LayerScores] = {}
    if passing:
        state = pass_over(model, data, passing, reading, session=session, settle=settle)
        scored |= zip(passing, finish(state), strict=True)
    for scorer in made.values():
        if trials.trains(scorer):
            scored[scorer] = trials.score(scorer, session.model(model), session.data(data), reading, folder)
    return [scored[made[spec]] for spec in scorers]


def pass_over(
    model: ModelSpec,
    data: DataSpec,
    scorers: Sequence[Any],
    reading: Reading,
    *,
    session: Session | None = None,
    settle: Settle | None = None,
    shard: tuple[int, int] = (1, 1),
) -> PassState:
    """Opens a model and data by name and feeds every scorer; see `scoring.one_pass.gather`."""
    session = session or Session()
    needs = {need for scorer in scorers for need in scorer.card.needs}
    texts = session.texts(data, needs)
    opened = session.model(model, language="language-model" in needs)
    return gather(opened, texts, scorers, reading, settle=settle, shard=shard)


def choose(
    spec: RunSpec, session: Session, *, probes: Path, kept: Path | None = None
) -> tuple[LayerScores | None, Plan]:
    """Scores, where the selector reads scores, and plans.

    Args:
        spec: Which model and data, and one choice on every axis.
        session: What is open already.
        probes: Where scorers that train work; they resume there.
        kept: The file of the scores; scores that stand there are read and not made again.
    """
    selector = catalog.build("selector", spec.selector)
    tuner, head = catalog.build("tuner", spec.tuner), catalog.build("head", spec.head)
    scoring = selector.needs_scores and tuner.needs_layers
    data = session.texts(spec.train, catalog.find("scorer", spec.scorer.name).card.needs if scoring else ())
    opened = session.model(spec.model, language=scoring and _speaks(spec.scorer))
    scores, tokens = None, None
    if scoring and kept is not None and kept.is_file():
        scores = load(LayerScores, kept)
    elif scoring:
        planning.check(selector, len(opened.info))
        scorer = trials.tuned_as(spec.scorer, spec.tuner)
        scores = score(spec.model, spec.train, [scorer], spec.reading, folder=probes, session=session)[0]
        if kept is not None:
            save(scores, kept)
    else:
        length = max_tokens(opened.stack.base, opened.tokenizer, spec.train.max_length)
        tokens = mean_length(encode(data, opened.tokenizer, length))
    return scores, planning.plan(
        scores or opened.info,
        selector if tuner.needs_layers else None,
        tuner=tuner,
        head=head,
        schedule=catalog.build("schedule", spec.schedule),
        data=data.info,
        tokens=tokens,
    )


def tune(
    spec: RunSpec,
    folder: Path,
    *,
    session: Session | None = None,
    cache: CacheSettings | None = None,
    watch: WatchSettings | None = None,
    show: Callable[[object], object] = lambda _: None,
    description: str | None = None,
) -> RunResult:
    """Scores, chooses, trains, proves the engagement, judges and saves.

    A finished run is read back, a stopped one goes on.

    Args:
        spec: Everything needed to repeat the run.
        folder: Its own folder; holds nothing but this run.
        session: What is open already; the base model in it is left as it was.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.
        watch: How the training is watched and kept.
        show: Is handed scores and plan as soon as they are there.
        description: What the progress bar says.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
        OutputError: The folder holds another run.
    """
    session, watch = session or Session(shared=False), watch or WatchSettings()
    data = _data(spec, session)
    texts = data["train"]
    decisive = decisive_metric(spec, measures(task_of(texts.info), spec.metrics))  # refuses what cannot read the task
    opened = session.model(spec.model, language=ordering.asks_language(spec))
    length = _length(spec, opened)
    sweep(folder)
    claim(folder / RUN, _claimed(spec, opened, data), defaults={"settings": to_json(TrainSettings())})
    if (folder / RESULT).is_file():
        _leave_no_checkpoint(folder)
        return load_result(folder / RESULT)

    plan = _planned(spec, folder, session, show)
    settings = _settled(spec, plan, len(texts), show)
    order = ordering.order(spec, plan, settings, folder, session)
    lowest = scheduling.lowest_layers(order.plan, planning.steps_of(settings, plan, len(texts)), settings.seed)
    model = headed(opened.stack, catalog.build("head", plan.head), texts, settings.seed)
    tuned = apply(
        model,
        order.plan,
        settings.seed,
        frozen_dropout=settings.frozen_dropout,
        before=opened.hashes_below("base"),
        masters=True,
    )

    def measure(name: str) -> Any:
        return judge(model, data[name], opened.tokenizer, length, names=spec.metrics)

    with tuned.temporarily(folder) if session.shared else nullcontext():  # others begin from the same weights
        collate = task_of(texts.info).collator(opened.tokenizer)
        with peak_memory() as memory:
            rows = order.arranged(encode(texts, opened.tokenizer, length))
            if watch.gradient_checkpointing:
                tuned.recompute()
            with saving(tuned.stack, opened.info.hash, rows, collate, settings, folder, cache, lowest) as saved:
                trained = train(
                    model,
                    rows,
                    collate,
                    settings,
                    folder,
                    Clock(description or f"tuning layers {', '.join(map(str, plan.layers)) or 'none'}"),
                    (*tuned.followers, *saved.followers),
                    [EngagementCallback(tuned)],
                    watch,
                    judge_of(spec, decisive, lambda: measure("validation")[0], tuned),
                )
        remove_delta(folder)  # of a sitting that was killed before its result was written
        save_delta(tuned, folder, data=texts.info, max_length=length)
        started = time.perf_counter()
        judged = {name: measure(name) for name in data if name != "train"}
        predictions = {name: save_predictions(rows, folder, name) for name, (_, rows) in judged.items()}
    result = RunResult(
        spec=spec,
        plan=plan,
        data={name: part.info for name, part in data.items()},
        metrics={name: metrics for name, (metrics, _) in judged.items()},
        trainable_parameters=tuned.trainable_parameters,
        seconds={"train": trained.seconds, "cache": saved.cache.seconds, "evaluate": time.perf_counter() - started},
        peak_memory_bytes=memory.get("peak"),
        steps=trained.steps,
        versions=versions(),
        provenance=provenance(),
        saved=saved.description | kept_weights(trained, decisive),
        predictions=predictions,
        learning_rate=settings.learning_rate,
    )
    write_card(folder, plan, texts.info, {name: (data[name].info, metrics) for name, metrics in result.metrics.items()})
    save(result, folder / RESULT)
    _leave_no_checkpoint(folder)
    return result


def _length(spec: RunSpec, opened: Opened) -> int:
    """How many tokens texts are cut to; a model that cannot be tuned so is refused."""
    check_one_sequence(opened.stack.base)
    if (own := own_head(opened.stack.base)) is not None:
        log.warning("the checkpoint's own head (%s) is left out: a new head is trained", own)
    length = max_tokens(opened.stack.base, opened.tokenizer, spec.train.max_length)
    if spec.plan is not None:
        check_plan(opened.info, spec.plan)
    return length


def _settled(spec: RunSpec, plan: Plan, texts: int, show: Callable[[object], object]) -> TrainSettings:
    """The settings with what they leave open; what was taken is shown in one line."""
    settings, why = planning.settled(spec.settings, plan, texts)
    if why is not None:
        show(f"{_share(spec, plan)}{why}")
    return settings


def _speaks(scorer: Spec) -> bool:
    """Whether a scorer reads what a language model would say."""
    return "language-model" in catalog.find("scorer", scorer.name).card.needs


def _data(spec: RunSpec, session: Session) -> dict[str, TextData]:
    """What a run reads, by split; what is judged shares the task and the classes of the training data."""
    train = session.data(spec.train)
    held_out = {"validation": spec.validation, "test": spec.test}
    return {"train": train} | {
        name: session.data(part, like=train.info) for name, part in held_out.items() if part is not None
    }


def _planned(spec: RunSpec, folder: Path, session: Session, show: Callable[[object], object]) -> Plan:
    """The plan that was given, that a stopped run made, or that is made now."""
    if spec.plan is not None:  # of a model that may lie elsewhere now
        where = session.model(spec.model).info.spec
        scores, plan = None, replace(spec.plan, model=replace(spec.plan.model, spec=where))
    else:
        scores, plan = choose(spec, session, probes=folder / PROBES, kept=folder / SCORES)
    if (folder / PLAN).is_file():
        plan = load(Plan, folder / PLAN)
    save(plan, folder / PLAN)
    for made in (scores, plan):
        if made is not None:
            show(made)
    return plan


def _share(spec: RunSpec, plan: Plan) -> str:
    """How many layers were chosen, where the spec leaves it open."""
    selector = catalog.build("selector", spec.selector)
    if spec.plan is not None or not isinstance(selector, TakesK) or (selector.k, selector.ratio) != (None, None):
        return ""
    return f"{len(plan.layers)} of {len(plan.model)} layers, a quarter rounded up; "


def _claimed(spec: RunSpec, opened: Opened, data: dict[str, TextData]) -> dict[str, Any]:
    """What a folder is for: the run, with model and data known by their content, wherever they lie.

    Metrics are no part of it: they change no training.
    """
    content = to_json(replace(spec, model=replace(spec.model, name="", revision=None), metrics=()))
    return content | {"model_hash": opened.info.hash, "data": {name: part.info.hash for name, part in data.items()}}


def _leave_no_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)


# --- without weights -----------------------------------------------------------------------------


def inspect(model: ModelSpec) -> dict[str, Any]:
    """The layers of a model, without its weights: index, path, parameters, and what each tuner would train there.

    Returns:
        Plain data: `model`, `hidden_size`, `causal`, `parameters` and `layers`, whose `tuners` have the count of every
        tuner with its default settings, or None where it has nothing to attach to.

    Raises:
        ModelError: The model cannot be opened, or its layers are not found.
    """
    _, info = outline(model)
    tuners = {name: made() for name, made in catalog.every("tuner").items() if made.needs_layers}

    def trained(tuner: Any, layer: int) -> int | None:
        try:
            count: int = tuner.count(info, (layer,))
        except WheretuneError:
            return None
        return count

    return {
        "model": info.name,
        "hidden_size": info.hidden_size,
        "causal": info.causal,
        "parameters": info.parameters,
        "layers": [
            to_json(one) | {"tuners": {name: trained(tuner, one.index) for name, tuner in tuners.items()}}
            for one in info.layers
        ],
    }


def cost(
    plan: Plan,
    data: DataSpec,
    model: ModelSpec | None = None,
    *,
    epochs: int,
    batch_size: int,
    session: Session | None = None,
) -> Cost:
    """What a plan costs on some texts, from the model's shapes and the texts' tokens; opens no weights.

    Args:
        plan: The plan.
        data: The texts; their labels are not looked at.
        model: Where the plan's model is now, if not where it was.
        epochs: Passes over the texts.
        batch_size: Texts in a batch.
        session: What is open already.

    Raises:
        ConfigError: There is no epoch or nothing in a batch.
        DataError: The texts cannot be read.
        ModelError: The model or its tokenizer cannot be opened.
        PlanError: The plan was made for a model of other layers.
    """
    texts = (session or Session()).data(data, labels="ignored")
    stack, info = outline(model or plan.model.spec)
    check_one_sequence(stack.base)
    check_layers(info, plan)
    tokenizer = load_tokenizer(info.name, info.spec.revision)
    rows = encode(texts, tokenizer, max_tokens(stack.base, tokenizer, data.max_length))
    return planning.cost(plan, tokens=mean_length(rows), texts=len(rows), epochs=epochs, batch_size=batch_size)
