"""The whole way on one screen: model + data -> scores -> plan -> tuned model -> result.

A run's folder holds `run.json` (what it is for), `scores.json` and `plan.json` where they are made here, and while it
trains `checkpoint-STEP/`. When it is finished it holds the delta (`delta.safetensors`, for PEFT's tuners `adapter/`,
`wheretune.json`), a file of predictions per judged split and, last of all, `result.json`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune import automatic, catalog, finished, ordering, planning, scheduling, trained_head, trials
from wheretune.applying import apply
from wheretune.data.tokens import mean_learned, mean_length
from wheretune.delta.saving import remove_delta, save_delta
from wheretune.finished import RESULT
from wheretune.heads.headed import headed
from wheretune.judging import calibrated, judge, measures, save_predictions
from wheretune.model.identity import check_plan
from wheretune.model.inputs import max_tokens
from wheretune.model.placement import current, device_of
from wheretune.model.two_stacks import check_start
from wheretune.ordering import EOF_LAYERS
from wheretune.records.base import Spec, load, save, to_json
from wheretune.records.plan import Plan
from wheretune.records.runs import CacheSettings, RunResult, RunSpec, TrainSettings, WatchSettings, as_claimed
from wheretune.records.scores import LayerScores, Reading
from wheretune.savings.together import saving
from wheretune.scoring.by_name import pass_over
from wheretune.scoring.gathered import finish
from wheretune.scoring.resuming import kept_beside
from wheretune.session import Session
from wheretune.support.files import claimed, sweep
from wheretune.support.processes import check_alike, check_sees, from_first, gathered, join
from wheretune.support.provenance import peak_memory, provenance, versions
from wheretune.tasks.base import task_of
from wheretune.training.arguments import check_judging, check_watch
from wheretune.training.best import BEST, decisive_metric, judge_of, kept_weights, with_loss
from wheretune.training.checkpoints import checkpoints
from wheretune.training.pace import Pace

if TYPE_CHECKING:
    from wheretune.applying import Tuned
    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.records.data import DataInfo, DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.savings.together import SavingsReport
    from wheretune.scoring.one_pass import Settle
    from wheretune.scoring.resuming import Keep

RUN, SCORES, PLAN, PROBES = "run.json", "scores.json", "plan.json", "probe"


def score(
    model: ModelSpec,
    data: DataSpec,
    scorers: Sequence[Spec],
    reading: Reading,
    *,
    folder: Path | None = None,
    session: Session | None = None,
    settle: Settle | None = None,
    keep: Keep | None = None,
) -> list[LayerScores]:
    """Scores the layers: all scorers but those that train in one pass, these by trials.

    Several processes share the pass, and all have the scores in the end.

    Args:
        model: Which model.
        data: The data.
        scorers: Any number.
        reading: How the texts are read.
        folder: Where scorers that train work; they resume there.
        session: What is open already.
        settle: Ends the pass as soon as a choice is settled; see `scoring.confidence`.
        keep: Where the pass is kept while it is unfinished, and from where it goes on; see `scoring.resuming`.

    Returns:
        The scores in the order of `scorers`.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
    """
    join()
    session = session or Session()
    check_alike({"scorers": list(map(str, scorers)), "reading": to_json(reading), "until_settled": settle is not None})
    made = {spec: catalog.build("scorer", spec) for spec in scorers}
    passing = [scorer for scorer in made.values() if not trials.trains(scorer)]
    scored: dict[Any, LayerScores] = {}
    if passing:
        state = pass_over(model, data, passing, reading, session=session, settle=settle, keep=keep)
        scored |= zip(passing, finish(state), strict=True)
    for scorer in made.values():
        if trials.trains(scorer):
            scored[scorer] = _trials(scorer, model, session.data(data), reading, folder, session)
    return [scored[made[spec]] for spec in scorers]


def _trials(
    scorer: Any, model: ModelSpec, data: TextData, reading: Reading, folder: Path | None, session: Session
) -> LayerScores:
    """Scores by trials, on a language model where the head is its own."""
    opened = session.model(model, language=planning.head_of(scorer.head, data.info).speaks)
    return trials.score(scorer, opened, data, reading, folder)


def choose(
    spec: RunSpec, session: Session, *, probes: Path, kept: Path | None = None
) -> tuple[LayerScores | None, Plan]:
    """Scores, where the selector reads scores, and plans.

    Args:
        spec: Which model and data, and one choice on every axis.
        session: What is open already.
        probes: Where scorers that train work; they resume there.
        kept: The file of the scores; scores that stand there are read and not made again. A pass that is interrupted
            is kept beside it and goes on.
    """
    selector, tuner = catalog.build("selector", spec.selector), catalog.build("tuner", spec.tuner)
    scoring = selector.needs_scores and tuner.needs_layers
    needs = catalog.find("scorer", spec.scorer.name).card.needs if scoring else ()
    data = session.texts(spec.train, needs)
    selector = automatic.with_layers_above(selector, data.info)
    head = planning.head_of(spec.head, data.info)
    opened = ordering.opened(spec, session, language=head.speaks)
    ordering.check_fits(spec, opened, data)
    if head.speaks:
        headed(opened.stack, head, data, 0)  # refuses, before layers are scored, an output matrix that cannot train
    scores, tokens, learned = None, None, None
    if scoring and kept is not None and from_first(kept.is_file):
        scores = load(LayerScores, kept)
    elif scoring:
        planning.check(selector, opened.info)
        scorer = trials.tuned_as(spec.scorer, spec.tuner)
        with nullcontext() if kept is None else kept_beside(kept) as keep:
            scores = score(spec.model, spec.train, [scorer], spec.reading, folder=probes, session=session, keep=keep)[0]
            if kept is not None:
                from_first(lambda: save(scores, kept))
    else:
        length = max_tokens(opened.stack.base, opened.tokenizer, spec.train.max_length)
        rows = task_of(data.info).encode(data, opened.tokenizer, length)
        tokens, learned = mean_length(rows), mean_learned(rows)
    plan = planning.plan(
        scores or opened.info,
        selector if tuner.needs_layers else None,
        tuner=tuner,
        head=head,
        schedule=catalog.build("schedule", spec.schedule),
        data=data.info,
        tokens=tokens,
        learned=learned,
    )
    return scores, trained_head.fitted(plan, session.model(spec.model), data.info)


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
    """Scores, chooses, trains, proves the engagement, judges and saves; of several processes the first writes.

    Args:
        spec: Everything needed to repeat the run.
        folder: Its own folder, of this run alone; a finished run is read back, a stopped one goes on.
        session: What is open already; the base model in it is left as it was.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.
        watch: How the training is watched and kept.
        show: Is handed scores and plan as soon as they are there.
        description: What the progress bar says.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
        OutputError: The folder holds another run.
    """
    from wheretune.training.clock import Clock  # opens Transformers' Trainer, and with it PEFT, datasets and pandas
    from wheretune.training.engagement import EngagementCallback
    from wheretune.training.loop import train

    join()
    watch = watch or WatchSettings()
    check_judging(spec.settings, spec.tuner if spec.plan is None else spec.plan.tuner)
    check_watch(spec, watch, cache)
    session = session or Session(shared=False, on_host=watch.fsdp)
    data = _data(spec, session)
    texts, task = data["train"], task_of(data["train"].info)
    spec = with_loss(spec, task)
    decisive = decisive_metric(spec, measures(task, spec.metrics))  # refuses what cannot read the task
    spec, opened = _opened(spec, texts, session)
    length = _length(spec, opened)
    check_alike({**_claimed(spec, opened, data), "watch": to_json(watch), "cache": repr(cache)})
    rows = task.encode(texts, opened.tokenizer, length)
    ordering.check_fits(spec, opened, texts)
    ordering.check_time(spec, opened.info, rows, cache)
    with _claiming(folder, spec, _claimed(spec, opened, data)):
        if from_first((folder / RESULT).is_file):
            from_first(lambda: _leave_no_checkpoint(folder))
            return from_first(lambda: finished.with_metrics(folder, spec.metrics))

        plan = _planned(spec, folder, session, show)
        settings = _settled(spec, plan, len(rows), show)
        order = ordering.order(spec, plan, settings, folder, session)
        steps = automatic.steps_of(settings, len(rows), plan.cost.tokens)
        lowest = scheduling.lowest_layers(order.plan, steps, settings.seed)
        rows = order.arranged(rows)
        model = headed(opened.stack, catalog.build("head", plan.head), texts, settings.seed)
        trained_head.fill(model, plan, opened, texts.info)
        tuned = apply(
            model,
            order.plan,
            settings.seed,
            frozen_dropout=settings.frozen_dropout,
            before=opened.hashes_below(model.base_path),
            masters=not watch.fsdp,
        )

    pace = Pace(tuned.stack)

    def measure(name: str) -> Any:
        return judge(model, data[name], opened.tokenizer, length, names=spec.metrics)

    with tuned.temporarily(folder) if session.shared else nullcontext():  # others begin from the same weights
        collate = task.collator(opened.tokenizer)
        with current(device_of(spec.model)), peak_memory() as memory:
            if watch.gradient_checkpointing:
                tuned.recompute()
            kept = _cache(cache, watch)
            with saving(tuned.stack, opened.info.hash, rows, collate, settings, folder, kept, lowest) as saved:
                _readied(tuned, spec, watch, saved)
                trained = train(
                    model,
                    rows,
                    saved.collate,
                    settings,
                    folder,
                    Clock(description or f"tuning layers {plan.model.named(plan.layers) or 'none'}"),
                    (pace, *tuned.followers, *order.followers, *saved.followers),
                    [EngagementCallback(tuned)],
                    watch,
                    judge_of(spec, decisive, lambda: measure("validation")[0]),
                )
        data = calibrated(model, data, opened.tokenizer, length)
        texts = data["train"]
        _keep(tuned, folder, texts.info, length, watch.fsdp)
        started = time.perf_counter()
        judged = {name: measure(name) for name in data if name != "train"}
        took = time.perf_counter() - started
        predictions = from_first(
            lambda: {name: save_predictions(found, folder, name) for name, (_, found) in judged.items()}
        )
    with current(device_of(spec.model)):
        about = provenance()
    result = RunResult(
        spec=spec,
        plan=plan,
        data={name: part.info for name, part in data.items()},
        metrics={name: metrics for name, (metrics, _) in judged.items()},
        trainable_parameters=tuned.trainable_parameters,
        seconds={"train": trained.seconds, "cache": saved.cache.seconds, "order": order.seconds, "evaluate": took},
        peak_memory_bytes=max(gathered(memory["peak"])),
        steps=trained.steps,
        versions=versions(),
        provenance=about,
        saved=saved.description
        | tuned.shards
        | tuned.compiled()
        | pace.saved(scheduling.backward_saved(plan))
        | kept_weights(trained, decisive),
        predictions=predictions,
        learning_rate=settings.learning_rate,
    )
    from_first(lambda: _ended(result, folder))
    return result


@contextmanager
def _claiming(folder: Path, spec: RunSpec, content: Mapping[str, Any]) -> Iterator[None]:
    """Holds a run's folder, as `claimed` does in the first process; the others hear its refusal, and see the folder."""
    with ExitStack() as inside:

        def claim() -> None:
            sweep(folder)
            made = (SCORES, PLAN, EOF_LAYERS)
            inside.enter_context(claimed(folder / RUN, content, renewed=partial(as_claimed, spec), made=made))

        from_first(claim)
        check_sees(folder / RUN)
        yield


def _cache(cache: CacheSettings | None, watch: WatchSettings) -> CacheSettings | None:
    """Where the states of the frozen prefix are kept: nowhere where the model is in shards, which run all together."""
    return CacheSettings("off") if watch.fsdp else cache


def _readied(tuned: Tuned, spec: RunSpec, watch: WatchSettings, saved: SavingsReport) -> None:
    """Cuts the model into shards or compiles its layers, as was asked; what is tried out on it has been by then."""
    if watch.fsdp:
        tuned.shard(device_of(spec.model))
    if watch.compile:
        tuned.compile(whole=not saved.one_token)


def _keep(tuned: Tuned, folder: Path, data: DataInfo, length: int, in_shards: bool) -> None:
    """Proves the engagement and writes what was tuned, of which in shards every process has a part."""
    from_first(lambda: remove_delta(folder))  # of a sitting that was killed before its result was written
    keep = partial(save_delta, tuned, folder, data=data, max_length=length)
    if in_shards:
        keep()
    else:
        from_first(keep)


def _ended(result: RunResult, folder: Path) -> None:
    """Writes the result, last of all, and takes away what only a stopped run needs."""
    finished.write(result, folder)
    _leave_no_checkpoint(folder)


def _opened(spec: RunSpec, texts: TextData, session: Session) -> tuple[RunSpec, Opened]:
    """The run with its head settled, and its model, opened as a language model where that head is its own."""
    head = planning.head_of(spec.head if spec.plan is None else spec.plan.head, texts.info)
    planning.check_head(head, spec.settings)
    spec = spec if spec.plan is not None else replace(spec, head=Spec.of(head))
    return spec, ordering.opened(spec, session, language=head.speaks)


def _length(spec: RunSpec, opened: Opened) -> int:
    """How many tokens texts are cut to; a model that cannot be tuned so is refused."""
    check_start(opened.stack)
    if spec.plan is not None:
        check_plan(opened.info, spec.plan)
    return max_tokens(opened.stack.base, opened.tokenizer, spec.train.max_length)


def _settled(spec: RunSpec, plan: Plan, texts: int, show: Callable[[object], object]) -> TrainSettings:
    """The settings with what they leave open; what was taken is shown in one line."""
    settings, why = automatic.settled(spec.settings, plan, texts)
    if why is not None:
        show(f"{automatic.count_in_words(spec.selector, plan) if spec.plan is None else ''}{why}")
    return settings


def _data(spec: RunSpec, session: Session) -> Mapping[str, TextData]:
    """What a run reads, by split; what is judged shares the task and the classes of the training data."""
    train = session.data(spec.train)
    held_out = {"validation": spec.validation, "test": spec.test}
    return {"train": train} | {
        name: session.data(part, like=train.info) for name, part in held_out.items() if part is not None
    }


def _planned(spec: RunSpec, folder: Path, session: Session, show: Callable[[object], object]) -> Plan:
    """The plan that was given, that a stopped run made, or that is made now."""
    if spec.plan is not None:  # of a model that may lie elsewhere now
        opened, scores = session.model(spec.model), None
        plan = replace(spec.plan, model=replace(spec.plan.model, spec=opened.info.spec))
        plan = trained_head.fitted(plan, opened, session.data(spec.train).info)
    else:
        scores, plan = choose(spec, session, probes=folder / PROBES, kept=folder / SCORES)
    if from_first((folder / PLAN).is_file):
        plan = load(Plan, folder / PLAN)
    from_first(lambda: save(plan, folder / PLAN))
    plan = from_first(lambda: plan)
    for made in (scores, plan):
        if made is not None:
            show(made)
    return plan


def _claimed(spec: RunSpec, opened: Opened, data: Mapping[str, TextData]) -> dict[str, Any]:
    """What a folder is for: the run, with model and data known by their content, wherever they lie.

    Metrics are no part of it: they change no training.
    """
    content = to_json(replace(spec, model=replace(spec.model, name="", revision=None), metrics=()))
    known = {"model_hash": opened.info.hash, "data": {name: part.info.hash for name, part in data.items()}}
    return as_claimed(spec, content | known)


def _leave_no_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)
