"""Many runs side by side: the same data, batches and budget for every method, several seeds, and a table.

A folder holds `compare.json` (what is compared), `scores.json`, `runs/METHOD/lr-RATE/seed-SEED/` with one `result.json`
per finished run (its predictions beside it) or `failed.txt`, and at the end `results.csv` and `table.md`. Started
again, it runs what is missing. Torch is opened once names, settings and data are seen to be right.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune import automatic, catalog, planning
from wheretune.errors import WheretuneError
from wheretune.records.base import Spec, renewed, to_json
from wheretune.records.runs import CacheSettings, RunSpec, WatchSettings, check_cache
from wheretune.records.scores import ENOUGH, Reading, load_scores, save_scores
from wheretune.scheduling import lowest_layers
from wheretune.selectors.base import resolve_k
from wheretune.session import Session
from wheretune.studies import methods
from wheretune.studies.grid import Compared, Comparison, Failure, Job, next_jobs, rows
from wheretune.studies.tables import RESULTS, TABLE, write_tables
from wheretune.support.executors.base import Lost, started
from wheretune.support.files import alone_in, claimed, write_text
from wheretune.support.hub import layers_said
from wheretune.support.log import log
from wheretune.support.words import rate_in_words
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.heads.base import Head
    from wheretune.recipes.base import Method
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo
    from wheretune.records.plan import Plan
    from wheretune.records.runs import RunResult
    from wheretune.records.scores import LayerScores
    from wheretune.support.executors.base import Executor
    from wheretune.tuners.base import Tuner

COMPARISON, SCORES, PROBES, RUNS, FAILURE = "compare.json", "scores.json", "probe", "runs", "failed.txt"
OWNED = (COMPARISON, SCORES, "scores-unfinished*.safetensors", PROBES, RUNS, TABLE, RESULTS)
GROWING = ("methods", "seeds", "learning_rates")  # what may be added to a comparison that has begun
IDLE = ("reference", "executor")  # what changes no run


def compare(
    what: Comparison,
    folder: Path,
    *,
    cache: CacheSettings | None = None,
    watch: WatchSettings | None = None,
    session: Session | None = None,
) -> Compared:
    """Runs what is missing, and writes the tables.

    A run that fails keeps its traceback in `failed.txt` and does not end the comparison; it is tried again when the
    comparison is started again.

    Args:
        what: What is compared.
        folder: Where it is kept.
        cache: Where runs keep the states of their frozen prefix; decided by what pays by default.
        watch: How every training is watched and kept.
        session: What is open already.

    Returns:
        One row per method, in the order asked for.

    Raises:
        WheretuneError: Of every kind, for what the user can mend; before anything is written.
        OutputError: The folder holds another comparison.
    """
    return _Study(what, folder, cache, watch, session or Session()).run()


@dataclass(frozen=True, eq=False)
class _Study:
    """A comparison in its folder, with what this process has opened."""

    what: Comparison
    folder: Path
    cache: CacheSettings | None
    watch: WatchSettings | None
    session: Session

    def run(self) -> Compared:
        """Refuses what is wrong, opens, scores and runs what is missing, and writes the tables."""
        self.check_names()
        data = self.data()
        study = self.settled(data["train"])
        with started(catalog.build("executor", self.what.executor), self.folder, "wheretune.pipeline") as executor:
            return study.finished(data, executor)

    def check_names(self) -> None:
        """Refuses what is known to be wrong without the model and the data."""
        if self.cache is not None:
            check_cache(self.what.settings, self.cache)
        for axis in ("scorer", "head", "executor"):
            if (spec := getattr(self.what, axis)) is not None:
                catalog.build(axis, spec)
        for name in self.what.metrics:
            catalog.find("metric", name)
        for method in self.what.methods:
            with methods.named(method):
                methods.check(method)
        if (said := layers_said(self.what.model.name)) is not None:  # what the config refuses needs no torch
            self.check_layers(said, self.what.methods)

    def check_layers(self, model: ModelInfo | int, among: Sequence[Method]) -> int:
        """Refuses methods that cannot choose among a model's layers, and says how many they choose by default."""
        k = resolve_k(self.what.k, self.what.ratio, model if isinstance(model, int) else len(model))
        for method in among:
            selector = _selector(method, k, self.what.seeds[0])
            with methods.named(method):
                if selector is not None:
                    planning.check(selector, model)
        return k

    def data(self) -> dict[str, DataInfo]:
        """By split, what every run reads."""
        train = self.session.data(self.what.train).info
        held = {"validation": self.what.validation, "test": self.what.test}
        read = {name: self.session.data(spec, like=train).info for name, spec in held.items() if spec is not None}
        return {"train": train, **read}

    def settled(self, train: DataInfo) -> _Study:
        """The same with `k` and the head settled for model and data; refuses what the model cannot bear.

        Its weights are not opened.
        """
        from wheretune.model.opening import outline

        _, info = outline(self.what.model)
        head = planning.head_of(self.what.head, train)
        kept = tuple(method for method in self.what.methods if self._trains(method, head, info, train))
        k = self.check_layers(info, kept)
        for method in kept:
            with methods.named(method):
                _check_tuner(catalog.build("tuner", method.tuner), info)
        return replace(self, what=replace(self.what, k=k, ratio=None, head=Spec.of(head), methods=kept))

    def _trains(self, method: Method, head: Head, info: ModelInfo, train: DataInfo) -> bool:
        """Whether anything trains in a method; one in which nothing does (head-only, the head frozen) is left out."""
        with methods.named(method):
            on_top = head if method.head is None else planning.head_of(method.head, train)
        outputs = task_of(train).outputs(train.classes)
        if catalog.find("tuner", method.tuner.name).needs_layers or on_top.count(info, outputs):
            return True
        log.warning("%s is left out: it trains the head alone, and %s stays frozen", method.name, on_top.name)
        return False

    def finished(self, data: dict[str, DataInfo], executor: Executor) -> Compared:
        """The rows, once every run has ended."""
        self.check_schedules()
        earlier = partial(_lasting, self.what)
        with claimed(self.folder / COMPARISON, self.claimed(data), renewed=earlier, made=(SCORES,)):
            work = Work(self.what, self.scores(), self.folder, self.cache, self.session, self.watch)
            for method in self.what.methods:
                with methods.named(method):
                    self.check_chosen(method, work.plan(method, self.what.seeds[0]), data["train"].rows)
        results: dict[Job, RunResult | Failure] = {}
        while jobs := next_jobs(self.what, results):
            for job, result in executor.run(work, jobs):
                results[job] = work.failed(job, result.why) if isinstance(result, Lost) else result
            left = [str(job) for job in jobs if job not in results]
            if left:
                raise RuntimeError(f"the executor {executor.name} says nothing of {'; '.join(left)}")
        seconds = {name: one.seconds for name, one in work.scores.items()}
        compared = Compared(self.what, rows(self.what, results, seconds))
        write_tables(compared, self.folder)
        return compared

    def claimed(self, data: dict[str, DataInfo]) -> dict[str, Any]:
        """What a folder is for: model and data known by their content, and all that a run depends on."""
        from wheretune.model.inputs import max_tokens

        language = _speaks(self.what) or any(
            "language-model" in catalog.find("scorer", one.name).card.needs for one in self.scorers.values()
        )
        opened = self.session.model(self.what.model, language=language)
        max_tokens(opened.stack.base, opened.tokenizer, self.what.train.max_length)
        what = replace(self.what, model=replace(self.what.model, name="", revision=None))
        known = {"model_hash": opened.info.hash, "data": {name: info.hash for name, info in data.items()}}
        return _lasting(what, to_json(what) | known)

    def check_schedules(self) -> None:
        """Refuses a method whose schedule cannot serve it, before layers are scored and the first method trains."""
        from wheretune import ordering
        from wheretune.model.inputs import max_tokens

        what, texts = self.what, self.session.data(self.what.train)
        rows: Sequence[dict[str, Any]] | None = None
        for method in what.methods:
            selector = None if what.k is None else methods.selector_of(method, k=what.k, seed=what.seeds[0])
            if selector is None or not _moves(method, selector):
                continue
            spec = RunSpec(
                what.model,
                what.train,
                scorer=method.scorer or what.scorer,
                selector=selector,
                tuner=method.tuner,
                schedule=method.schedule,
                settings=what.settings,
            )
            with methods.named(method):
                opened = ordering.opened(spec, self.session, language=_speaks(what))
                ordering.check_fits(spec, opened, texts)
                if rows is None:
                    length = max_tokens(opened.stack.base, opened.tokenizer, what.train.max_length)
                    rows = task_of(texts.info).encode(texts, opened.tokenizer, length)
                ordering.check_time(spec, opened.info, rows, self.cache)

    def check_chosen(self, method: Method, plan: Plan, texts: int) -> None:
        """Refuses a schedule that a budget has chosen and for which there are too few steps."""
        settings = self.what.settings
        if plan.schedule.name != method.schedule.name:
            steps = automatic.steps_of(settings, texts, plan.cost.tokens)
            lowest_layers(plan, steps, settings.seed)

    @cached_property
    def scorers(self) -> dict[str, Spec]:
        """By name of a method that chooses by scores, what scores the layers for it, with all its parameters."""
        from wheretune.trials import tuned_as

        named = {one.name: tuned_as(one.scorer or self.what.scorer, one.tuner)
                 for one in self.what.methods if methods.needs_scores(one)}  # fmt: skip
        return {name: Spec.of(catalog.build("scorer", spec)) for name, spec in named.items()}

    def scores(self) -> dict[str, LayerScores]:
        """By name of a method, its scores; those that are not in the folder yet share one pass."""
        from wheretune.pipeline import score
        from wheretune.scoring.resuming import kept_beside

        path = self.folder / SCORES
        known = {scores.scorer: scores for scores in (load_scores(path) if path.is_file() else [])}
        missing = [scorer for scorer in dict.fromkeys(self.scorers.values()) if scorer not in known]
        if missing:
            what = self.what
            reading = Reading(batch_size=2 * what.settings.batch_size, seed=what.train.seed, most=ENOUGH)
            given = (what.model, what.train, missing, reading)
            with kept_beside(path) as keep:
                made = score(*given, folder=self.folder / PROBES, session=self.session, keep=keep)
                known |= zip(missing, made, strict=True)
                save_scores(list(known.values()), path)
        return {name: known[scorer] for name, scorer in self.scorers.items()}


def _lasting(what: Comparison, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder is for, also one that an earlier version began, without what may change."""
    return {key: value for key, value in renewed(what, content).items() if key not in (*GROWING, *IDLE)}


def _moves(method: Method, selector: Spec) -> bool:
    """Whether a method's schedule moves, or its selector may choose one that does."""
    return bool(catalog.build("schedule", method.schedule).moves or selector.params.get("schedules"))


def _speaks(what: Comparison) -> bool:
    """Whether any head is a language model's own; the comparison's own is settled."""
    heads = {spec.name for spec in (what.head, *(method.head for method in what.methods)) if spec is not None}
    return any(catalog.find("head", name).speaks for name in heads)


def _check_tuner(tuner: Tuner, info: ModelInfo) -> None:
    """Refuses a tuner that has nothing to attach to in any layer."""
    for layer in range(len(info)) if tuner.needs_layers else ():
        try:
            tuner.count(info, (layer,))
            return
        except WheretuneError:
            if layer == len(info) - 1:
                raise


def _selector(method: Method, k: int, seed: int) -> Any:
    """The selector of one run; None where no layer is tuned."""
    spec = methods.selector_of(method, k=k, seed=seed)
    return None if spec is None else catalog.build("selector", spec)


@dataclass(frozen=True, eq=False)
class Work:
    """Runs the jobs of a comparison in one process, which opens model and data once; another process opens its own.

    Attributes:
        what: The comparison, with `k` settled.
        scores: By name of a method that chooses by scores.
        folder: The comparison's.
        cache: Where runs keep the states of their frozen prefix.
        session: What this process has opened.
        watch: How every training is watched and kept.
    """

    what: Comparison
    scores: dict[str, LayerScores]
    folder: Path
    cache: CacheSettings | None = None
    session: Session = field(default_factory=Session)
    watch: WatchSettings | None = None

    def __call__(self, job: Job) -> RunResult | Failure:
        """The run's result, or why there is none."""
        where = self.where(job)
        with alone_in(where):
            try:
                result = self._run(job, where)
            except Exception as error:  # whatever it is, the other runs go on
                return self.failed(job, f"{type(error).__name__}: {error}", traceback.format_exc())
            (where / FAILURE).unlink(missing_ok=True)
        return result

    def where(self, job: Job) -> Path:
        """The folder of a run."""
        return self.folder / RUNS / job.method / f"lr-{rate_in_words(job.learning_rate)}" / f"seed-{job.seed}"

    def failed(self, job: Job, why: str, trace: str | None = None) -> Failure:
        """A run without a result; why, or its traceback, is kept in its folder."""
        write_text(self.where(job) / FAILURE, trace or f"{why}\n")
        return Failure(str(self.where(job)), why)

    def _run(self, job: Job, where: Path) -> RunResult:
        from wheretune.pipeline import tune

        what = self.what
        method = next(method for method in what.methods if method.name == job.method)
        spec = RunSpec(
            model=what.model,
            train=what.train,
            validation=what.validation,
            test=what.test,
            metrics=what.metrics,
            settings=replace(what.settings, learning_rate=job.learning_rate, seed=job.seed),
            plan=self.plan(method, job.seed),
        )
        return tune(spec, where, session=self.session, cache=self.cache, watch=self.watch, description=str(job))

    def plan(self, method: Method, seed: int) -> Plan:
        """The plan of a method in the runs of a seed."""
        what = self.what
        assert what.k is not None  # as `settled` made sure
        info = self.session.model(what.model, language=_speaks(what)).info
        data = self.session.data(what.train).info
        return planning.plan(
            self.scores.get(method.name, info),
            _selector(method, what.k, seed),
            tuner=catalog.build("tuner", method.tuner),
            head=planning.head_of(method.head or what.head, data),
            schedule=catalog.build("schedule", method.schedule),
            data=data,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "session": Session()}  # a model is opened where it is used
