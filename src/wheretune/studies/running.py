"""Many runs side by side: the same data, batches and budget for every method, several seeds, and a table.

A folder holds `compare.json` (what is compared), `scores.json`, `runs/METHOD/lr-RATE/seed-SEED/` with one
`result.json` a finished run, and at the end `table.md` and `results.csv`. Started again, it runs what is missing.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.model.opening import layer_count
from wheretune.pipeline import check_model, run, score_model
from wheretune.planning import plan
from wheretune.records.base import Spec, to_json
from wheretune.records.runs import RunSpec, check_settings
from wheretune.records.scores import load_scores, save_scores
from wheretune.selectors.base import check_selector
from wheretune.studies import methods
from wheretune.studies.grid import GROWING, Data, Row
from wheretune.support.files import claim, write_text
from wheretune.tasks.base import load_data
from wheretune.trials import suited

if TYPE_CHECKING:
    from wheretune.pipeline import AnyScorer
    from wheretune.planning import AnySelector
    from wheretune.records.runs import CacheSettings, RunResult
    from wheretune.records.scores import LayerScores
    from wheretune.studies.grid import Comparison

SPEC, SCORES, PROBE, FAILURE = "compare.json", "scores.json", "probe", "failed.txt"
OWNED = (SPEC, SCORES, PROBE, "runs", "table.md", "results.csv")


def compare(what: Comparison, folder: Path, cache: CacheSettings | None = None) -> list[Row]:
    """Runs what is missing and returns a row a method, in the order asked for.

    A run that fails keeps its traceback in `failed.txt` and does not end the comparison; it is tried again
    when the comparison is started again.

    Args:
        what: What is compared.
        folder: Where it is kept.
        cache: Where runs keep the states of their frozen prefix.

    Raises:
        ConfigError: A method is unknown, or there are several learning rates and no validation data.
        OutputError: The folder holds another comparison.
    """
    if len(what.learning_rates) > 1 and what.validation is None:
        raise ConfigError("several --learning-rates need data to choose by", "give --validation")
    for rate in what.learning_rates:
        for seed in what.seeds:
            check_settings(replace(what.settings, learning_rate=rate, seed=seed))
    layers = layer_count(what.model)
    check_model(what.model, what.train.max_length)
    for name in what.methods:  # all that can be known to be wrong is said before anything is written
        selector = _selector(name, what.k, layers, what.seeds[0])
        if selector is not None:
            check_selector(selector, layers)
    wanted = {name: _scorer(name, what) for name in what.methods}
    train = load_data(what.train).info
    data = Data(
        train,
        None if what.validation is None else load_data(what.validation, like=train).info,
        load_data(what.test, like=train).info,
    )
    shared = {key: value for key, value in dataclasses.asdict(what).items() if key not in GROWING}
    claim(folder / SPEC, shared | {"data": dataclasses.asdict(data)})  # what was begun may only go on as it was
    scores = _scores(what, list(dict.fromkeys(wanted.values())), folder)
    return [_row(name, what, scores[wanted[name]], data, folder, cache) for name in what.methods]


def _scorer(name: str, what: Comparison) -> AnyScorer:
    """What a method scores with; one that needs no scores still needs the list of layers."""
    method = methods.method(name)
    if not method.needs_scores:
        free: AnyScorer = catalog.read("scorer", methods.FREE)
        return free
    scorer: AnyScorer = suited(catalog.read("scorer", method.scorer or what.scorer), method.tuner)
    return scorer


def _scores(what: Comparison, wanted: Sequence[AnyScorer], folder: Path) -> dict[AnyScorer, LayerScores]:
    """The scores by every scorer that a method needs; those that are missing share one pass."""
    every = load_scores(folder / SCORES) if (folder / SCORES).is_file() else []

    def found(scorer: AnyScorer) -> LayerScores | None:
        spec = to_json(Spec.of(scorer))
        return next(
            (s for s in every if s.scorer.name == spec["name"] and spec["params"].items() <= s.scorer.params.items()),
            None,
        )

    missing = [scorer for scorer in wanted if found(scorer) is None]
    if missing:
        every += score_model(what.model, what.train, missing, folder / PROBE, batch_size=2 * what.settings.batch_size)
        save_scores(every, folder / SCORES)
        every = load_scores(folder / SCORES)
    return {scorer: scores for scorer in wanted if (scores := found(scorer)) is not None}


def _selector(name: str, k: int, layers: int, seed: int) -> AnySelector | None:
    method = methods.method(name)
    if method.selector is None:
        return None
    if method.k is not None:
        k = method.k
    return methods.selector(method.selector, k=layers if method.every_layer else k, seed=seed)


def _row(
    name: str, what: Comparison, scores: LayerScores, data: Data, folder: Path, keeping: CacheSettings | None
) -> Row:
    failures: dict[str, str] = {}
    head, tuner = catalog.build("head", Spec(what.head)), methods.method(name).tuner

    @cache
    def one(rate: float, seed: int) -> RunResult | None:
        where = folder / "runs" / name / f"lr-{rate:g}" / f"seed-{seed}"
        settings = replace(what.settings, learning_rate=rate, seed=seed)
        try:
            selector = _selector(name, what.k, len(scores.layers), seed)
            made = plan(scores, selector, tuner=tuner, head=head)
            spec = RunSpec(made, data.train, data.validation, data.test, settings)
            result = run(spec, where, f"{name}, lr {rate:g}, seed {seed}", keeping)
            (where / FAILURE).unlink(missing_ok=True)
            return result
        except Exception as error:
            where.mkdir(parents=True, exist_ok=True)
            write_text(where / FAILURE, traceback.format_exc())
            failures[str(where)] = f"{type(error).__name__}: {error}"
            return None

    first = what.seeds[0]
    searched: dict[float, float] = {}
    best = what.learning_rates[0]
    if len(what.learning_rates) > 1:
        tried = {rate: one(rate, first) for rate in what.learning_rates}
        searched = {rate: r.metrics["validation"][0].value for rate, r in tried.items() if r is not None}
        best = max(searched, key=lambda rate: (searched[rate], -rate), default=best)
    results = [one(best, seed) for seed in what.seeds]
    return Row(
        method=name,
        learning_rate=best,
        searched=searched,
        results=tuple(result for result in results if result is not None),
        score_seconds=scores.seconds if methods.method(name).needs_scores else 0.0,
        failures=failures,
    )
