"""A model and rows -> predictions, kept row by row -> metrics.

Beside a result, one small file per judged split holds the prediction of every row, so that two methods can be compared
row by row later: `predictions-SPLIT.jsonl`, one JSON object per line; see `Prediction`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.data.texts import take
from wheretune.errors import ConfigError, TrainingError
from wheretune.records.base import from_json, record, require
from wheretune.records.runs import Metric
from wheretune.support.files import write_text
from wheretune.support.log import log
from wheretune.support.processes import gathered, part
from wheretune.support.progress import progress
from wheretune.tasks.base import brief, task_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import nn

    from wheretune.data.texts import TextData
    from wheretune.metrics.base import Measure, Predictions
    from wheretune.records.data import Collate
    from wheretune.tasks.base import Task


@record
class Prediction:
    """What was predicted of one row: one line of a file of predictions.

    Attributes:
        row: Its number in the source of the data, from 0.
        truth: The name of the true class, those of several, or the true number; None where it is not known.
        predicted: What the model says, likewise; None where the row has no text that could be read.
        probability: What the model gives for it; None where it predicts a number, or several classes.
        reason: Why the row counts in no metric; None where it does.
    """

    row: int
    truth: str | float | tuple[str, ...] | None
    predicted: str | float | tuple[str, ...] | None
    probability: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        require(self.row >= 0, f"its row is {self.row}")
        require(self.predicted is not None or self.reason is not None, "nothing is predicted, and it does not say why")
        require(self.probability is None or 0 <= self.probability <= 1, f"its probability is {self.probability}")

    @property
    def right(self) -> bool | None:
        """Whether what is predicted is the true class or set; None for a number, or where the truth is not known."""
        return self.predicted == self.truth if isinstance(self.truth, str | tuple) else None


@record
class PredictionFile:
    """A file of predictions: its lines, one per row."""

    lines: tuple[Prediction, ...]

    def __post_init__(self) -> None:
        require(len({one.row for one in self.lines}) == len(self.lines), "a row stands twice")


# --- from a model to predictions -----------------------------------------------------------------


def predict(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    batch_size: int = 32,
    description: str = "predicting",
) -> Float[np.ndarray, "row output"]:
    """What a model puts out of every row, in the order of the rows, the model in eval mode and left as it was.

    Several processes run every so-manieth batch each, as many as any other, and all have the whole in the end.

    Args:
        model: Gives `logits`, a row of numbers per text, when called with a batch.
        rows: Encoded rows.
        collate: Makes a batch of rows.
        batch_size: Rows in a batch; a batch holds texts of like length.
        description: What the progress bar says.

    Raises:
        ConfigError: The batch size is below 1.
        TrainingError: A logit is not finite.
    """
    import torch

    from wheretune.data.batches import length_places
    from wheretune.model.forward import evaluating

    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", "give 1 or more", "batch_size")
    device = next(model.parameters()).device
    logits: dict[int, np.ndarray] = {}
    number, size = part()
    with progress() as shown, torch.no_grad(), evaluating(model):
        batches = length_places(rows, batch_size)
        rounds = range(number, number + len(batches), size)  # the last may begin again: shards must run in step
        for places in shown.track([batches[i % len(batches)] for i in rounds], description=description):
            batch = collate([dict(rows[place]) for place in places])
            inputs = {name: value.to(device) for name, value in batch.items()}
            logits |= zip(places, model(**inputs).logits.float().cpu().numpy(), strict=True)
    logits = {place: values for every in gathered(logits) for place, values in every.items()}
    found = np.stack([logits[place] for place in range(len(rows))])
    if not np.isfinite(found).all():
        raise TrainingError("the model's outputs are not finite: training diverged", "lower the learning rate")
    return found


UNTAUGHT = "none of its tokens is learned, or all of them stand in the piece of an earlier row"


def by_text(
    found: Float[np.ndarray, "row output"], rows: Sequence[Mapping[str, Any]], data: TextData
) -> tuple[Float[np.ndarray, "text output"], TextData]:
    """What was put out of the rows of `data`, the sum where several encoded rows are of one, and those that had any.

    Args:
        found: From `predict`.
        rows: The encoded rows.
        data: The texts that they were made of.
    """
    if [row["row"] for row in rows] == list(data.rows):
        return found, data
    place = {row: i for i, row in enumerate(data.rows)}
    places = [place[row["row"]] for row in rows]
    sums = np.zeros((len(data), found.shape[1]))
    np.add.at(sums, places, found)
    read = sorted(set(places))
    unread = {row: UNTAUGHT for row in set(data.rows) - {data.rows[i] for i in read}}
    return sums[read], replace(take(data, read), unread={**unread, **data.unread})


# --- from predictions to metrics -----------------------------------------------------------------


def judge(
    model: nn.Module,
    data: TextData,
    tokenizer: Any,
    length: int,
    names: Sequence[str] = (),
    batch_size: int = 32,
    description: str = "evaluating",
) -> tuple[tuple[Metric, ...], tuple[Prediction, ...]]:
    """The metrics of a model on data that says what is right, the task's main one first, and every row's prediction.

    Args:
        model: Gives `logits` when called with a batch.
        data: With labels, if the task reads any.
        tokenizer: The model's.
        length: Tokens a text is cut to.
        names: Names of metrics beside those of the task.
        batch_size: As for `predict`.
        description: What the progress bar says.

    Raises:
        ConfigError: As for `measures`, or the batch size is below 1.
        DataError: A metric is not defined for these rows.
        TrainingError: A logit is not finite.
    """
    task = task_of(data.info)
    measures(task, names)  # refuses before anything is computed
    rows = task.encode(data, tokenizer, length)
    found, read = by_text(predict(model, rows, task.collator(tokenizer), batch_size, description), rows, data)
    metrics, predicted = judged(found, read, names)
    untaught = (Prediction(row, None, None, reason=UNTAUGHT) for row in data.rows if row in read.unread)
    return metrics, (*predicted, *untaught)


def calibrated(model: nn.Module, data: Mapping[str, TextData], tokenizer: Any, length: int) -> Mapping[str, TextData]:
    """The data with the task as it is after a look at the validation data, if there is any; see `Task.calibrated`.

    Args:
        model: A model that has been trained.
        data: By split.
        tokenizer: The model's.
        length: Tokens a text is cut to.
    """
    held = data.get("validation")
    if held is None or held.labels is None:
        return data
    rows, task = held, task_of(held.info)

    def logits() -> Float[np.ndarray, "row output"]:
        encoded = task.encode(rows, tokenizer, length)
        return predict(model, encoded, task.collator(tokenizer), description="calibrating")

    settled = task.calibrated(logits, held.labels)
    if settled == task:
        return data
    return {name: replace(part, info=replace(part.info, task=brief(settled))) for name, part in data.items()}


def judged(
    logits: Float[np.ndarray, "row output"], data: TextData, names: Sequence[str] = ()
) -> tuple[tuple[Metric, ...], tuple[Prediction, ...]]:
    """As `judge`, from the logits of the rows of `data`."""
    task, classes = task_of(data.info), data.info.classes
    predictions = task.predict(logits, classes)
    truth = np.array(data.labels if data.labels is not None else [np.nan] * len(data))
    found = measured(measures(task, names), predictions, truth, names, task.describe(classes))
    return found, rowwise(predictions, data)


def measured(
    every: Sequence[Measure], predictions: Predictions, truth: np.ndarray, asked: Sequence[str], what: str
) -> tuple[Metric, ...]:
    """The metrics that are defined for some rows; of those that were asked for, it is said which are not."""
    found = []
    for measure in every:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that is never predicted has F1 0 by definition
            value = measure.compute(predictions, truth)
        if value is not None:
            found.append(Metric(measure.name, value, len(truth), measure.higher_is_better))
        elif measure.name in asked:
            log.warning("%s is left out: it is not defined for %s", measure.name, what)
    return tuple(found)


def judged_every(
    logits: Float[np.ndarray, "row output"], texts: TextData, labelled: TextData, names: Sequence[str] = ()
) -> tuple[tuple[Metric, ...], tuple[Prediction, ...]]:
    """As `judged`, with an answer for every row of the source: one without a label that counts, or without a text.

    Args:
        logits: Of the rows of `texts`.
        texts: Every row whose text can be read.
        labelled: Those of them whose label can be read as well, and why the others' cannot.
        names: As for `judged`.

    Returns:
        The metrics of the rows of `labelled`, and a prediction of every row in the order of the source.
    """
    place = {row: i for i, row in enumerate(texts.rows)}
    labelled = take(labelled, [i for i, row in enumerate(labelled.rows) if row in place])
    metrics, counted = judged(logits[[place[row] for row in labelled.rows]], labelled, names)
    found = {one.row: one for one in counted}
    rest = [row for row in texts.rows if row not in found]
    if rest:
        more = task_of(labelled.info).predict(logits[[place[row] for row in rest]], labelled.info.classes)
        for one in rowwise(more, take(texts, [place[row] for row in rest])):
            found[one.row] = replace(one, reason=labelled.unread[one.row])
    for row, why in texts.unread.items():
        found[row] = Prediction(row, None, None, reason=why)
    return metrics, tuple(found[row] for row in sorted(found))


def answers(predictions: Predictions, data: TextData) -> list[dict[str, Any]]:
    """Every row of the source as a JSON object: what is predicted of it, or nothing and the reason.

    Args:
        predictions: Of the rows of `data`.
        data: The rows that could be read, and why the others could not.
    """
    written = dict(zip(data.rows, predictions.rows(), strict=True))
    empty = dict.fromkeys(next(iter(written.values())))
    written |= {row: {**empty, "reason": why} for row, why in data.unread.items()}
    return [written[row] for row in sorted(written)]


def measures(task: Task, names: Sequence[str] = ()) -> tuple[Measure, ...]:
    """The metrics of a task, its main one first, and the further ones that `names` asks for.

    Raises:
        ConfigError: There is no metric of such a name, or it does not read what the task predicts.
    """
    found: list[Measure] = [catalog.find("metric", name)() for name in dict.fromkeys((*task.metrics, *names))]
    for measure in found:
        if measure.reads not in task.predicts:
            raise ConfigError(
                f"the metric {measure.name} reads {measure.reads}, and {task.name} predicts "
                f"{' and '.join(task.predicts) or 'nothing'}",
                f"leave it out; of {task.name} come {', '.join(task.metrics) or 'no metrics'}",
                "metrics",
            )
    return tuple(found)


# --- row by row ----------------------------------------------------------------------------------


def rowwise(predictions: Predictions, data: TextData) -> tuple[Prediction, ...]:
    """Each prediction with its row and, where `data` has labels, the truth."""
    written = None if data.labels is None else task_of(data.info).written(data.labels, data.info.classes)
    truth = [None] * len(data) if written is None else written
    sure = [None] * len(data) if predictions.confidence is None else predictions.confidence.tolist()
    return tuple(map(Prediction, data.rows, truth, predictions.written, sure))


def predictions_name(split: str) -> str:
    """The name of a split's file of predictions, beside the result."""
    return f"predictions-{split}.jsonl"


def save_predictions(predicted: Sequence[Prediction], folder: Path, split: str) -> str:
    """Writes the predictions of a split into `folder`, whole or not at all.

    Every number is written with all its digits, so the same predictions give the same bytes.

    Returns:
        The name of the file.
    """
    name = predictions_name(split)
    write_predictions(predicted, folder / name)
    return name


def write_predictions(predicted: Sequence[Prediction], path: Path) -> None:
    """Writes a file of predictions, one JSON object per line, whole or not at all."""
    rows = ({key: value for key, value in vars(one).items() if (key, value) != ("reason", None)} for one in predicted)
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_predictions(path: str | Path) -> tuple[Prediction, ...]:
    """Reads what `save_predictions` wrote, in the order of its lines.

    Raises:
        ConfigError: There is no such file, or a line is no prediction.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error})", "check the path") from error
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            lines += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} line {number} is not JSON ({error})", "check the path") from error
    return from_json(PredictionFile, {"lines": lines}, str(path)).lines
