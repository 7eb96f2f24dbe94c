"""A finished run: its result and its card, and further metrics from the predictions that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wheretune.delta.card import write_card
from wheretune.judging import measured, measures, read_predictions
from wheretune.metrics.base import Predictions
from wheretune.records.base import save
from wheretune.records.runs import load_result
from wheretune.support.log import log
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.records.runs import Metric, RunResult

RESULT = "result.json"


def write(result: RunResult, folder: Path) -> None:
    """Writes the card and, last of all, the result of a run."""
    metrics = {name: (result.data[name], found) for name, found in result.metrics.items()}
    write_card(folder, result.plan, result.data["train"], metrics)
    save(result, folder / RESULT)


def with_metrics(folder: Path, names: Sequence[str]) -> RunResult:
    """The result in a folder, with metrics that were not asked for when it was made.

    They are computed from the predictions that were kept; what these do not suffice for is said.

    Args:
        folder: Of a finished run.
        names: The metrics that are asked for now.

    Raises:
        ConfigError: There is no such metric for the task, or the predictions are gone.
        DataError: A metric is not defined for these rows.
    """
    result = load_result(folder / RESULT)
    found = {split: (*there, *_further(result, folder, split, names)) for split, there in result.metrics.items()}
    if found != result.metrics:
        spec = replace(result.spec, metrics=tuple(dict.fromkeys((*result.spec.metrics, *names))))
        result = replace(result, metrics=found, spec=spec)
        write(result, folder)
    return result


def _further(result: RunResult, folder: Path, split: str, names: Sequence[str]) -> tuple[Metric, ...]:
    """Those of some metrics that a split of a result has not."""
    task, classes = task_of(result.data[split]), result.data[split].classes
    there = {metric.name for metric in result.metrics[split]}
    missing = [one for one in measures(task, names) if one.name in names and one.name not in there]
    kept_of = task.predicts[:1] if task.places == "one" else ()  # of learned tokens a row's mean is kept alone
    for one in missing:
        if one.reads not in kept_of:
            log.warning(
                "%s is not among the metrics of this finished run, and its predictions do not suffice for it; "
                "`wheretune evaluate --metric %s` gives it", one.name, one.name
            )  # fmt: skip
    able = [one for one in missing if one.reads in kept_of]
    if not able:
        return ()
    kept = read_predictions(folder / result.predictions[split])
    predicted = [task.read_back(one.predicted, classes) for one in kept]
    truth = [task.read_back(one.truth, classes) for one in kept]
    written = [one.predicted for one in kept if one.predicted is not None]
    again = Predictions(written, {task.predicts[0]: np.array(predicted)}, classes)
    return measured(able, again, np.array(truth), names, task.describe(classes))
