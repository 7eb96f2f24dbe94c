"""`evaluate`, `predict` and `merge`: what a tuned model is good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheretune.cli.columns import ColumnOptions
from wheretune.cli.groups import needed, option
from wheretune.cli.lm_evaluating import TaskOptions, measured
from wheretune.cli.options import AsJson, BaseOptions, Config, DataFile, Metrics, Overwrite, metric_names, there
from wheretune.cli.printing import json_line, note, show, write_out
from wheretune.cli.reporting import check_free, file_to_write
from wheretune.cli.writing import DecodingOptions, dtype, write, write_untuned, writes
from wheretune.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.delta.opening import Finetuned
    from wheretune.heads.top import TopModel
    from wheretune.judging import Prediction
    from wheretune.records.data import DataInfo
    from wheretune.records.runs import Metric
    from wheretune.tasks.base import LabelUse

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `wheretune tune` wrote.", show_default=False)]
BatchSize = Annotated[int, option("--batch-size", "Texts in a batch.", rich_help_panel="Data")]


def evaluate(
    folder: Folder,
    base: BaseOptions,
    columns: ColumnOptions,
    on_tasks: TaskOptions,
    data: DataFile = None,
    batch_size: BatchSize = 32,
    metric: Metrics = None,
    beside_base: Annotated[
        bool,
        option("--base", "The base model's own numbers beside, for a head that is its own.", rich_help_panel="Output"),
    ] = False,
    also: Annotated[
        list[str] | None,
        option(
            "--also",
            "Other data beside, of the same task or raw text, so that forgetting is seen; may be repeated.",
            default="none",
            metavar="F",
            rich_help_panel="Data",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "Where the metrics go, as JSON; the prediction of every row goes beside them.",
            default="none",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Measure a tuned model on labelled data, or a language model on tasks of lm-eval.

    With --output test.json the prediction of every row goes to predictions-test.jsonl beside it. Rows without a text,
    or without a label, are in no metric; they are counted apart, each with its reason. A class that the model was not
    trained on is always wrong.

    For example:

    wheretune evaluate runs/mine --data test.jsonl

    wheretune evaluate runs/mine --data test.jsonl --output runs/mine/test.json --metric mse

    wheretune evaluate runs/chat --data test.jsonl --base --also wiki.txt

    wheretune evaluate runs/chat --lm-eval hellaswag,arc_easy --limit 200 --base
    """
    names = metric_names(metric)
    on_tasks.check(data, bool(names or also or columns.given))
    target = None if output is None else file_to_write(output, overwrite)
    from wheretune.judging import predictions_name, save_predictions

    if target is not None:
        check_free(target.with_name(predictions_name(target.stem)), overwrite)
    trained = _trained_on(folder)
    from wheretune.delta.reading import read_other

    read = {} if data is None else {data: _both_ways(trained, data, columns)}
    read |= {name: (read_other(trained, name, columns.given, columns.bad_rows),) * 2 for name in also or ()}
    loaded = on_tasks.loaded(folder)
    tuned = _opened(folder, base)
    from wheretune.support.files import write_json

    untouched = tuned.untouched() if beside_base else None
    content, judged, before = _on_data(tuned, untouched, read, names, batch_size)
    if loaded:
        content["lm_eval"] = on_tasks.judged(tuned, untouched, loaded, batch_size)
    if target is not None:
        if data is not None:
            content["predictions"] = save_predictions(judged[data][1], target.parent, target.stem)
        write_json(target, content)
    if json_:
        show(None, json_, content)
    else:
        _show(folder, judged, before, content)
    if target is not None:
        kept = f", predictions in {target.parent / content['predictions']}" if data is not None else ""
        note(f"metrics in {target}{kept}")


def _both_ways(trained: DataInfo, source: str, columns: ColumnOptions) -> tuple[TextData, TextData]:
    """All rows that can be read, and those of them that have labels."""
    labelled = _read(trained, source, "required", columns)
    return _read(trained, source, "ignored", columns) if labelled.unread else labelled, labelled


def _on_data(
    tuned: Finetuned,
    untouched: TopModel | None,
    every: dict[str, tuple[TextData, TextData]],
    names: tuple[str, ...],
    batch_size: int,
) -> tuple[dict[str, Any], dict[str, Judged], dict[str, Judged]]:
    """What is written of all data, the tuned model's metrics and predictions by file, and those of the base beside."""
    from wheretune.data.tokens import with_tokens
    from wheretune.delta.reading import unknown_classes

    if not every:
        return {}, {}, {}
    if not tuned.model.several:
        every = {k: (with_tokens(a, tuned.tokenizer), with_tokens(b, tuned.tokenizer)) for k, (a, b) in every.items()}
    judged = _judged_all(tuned, every, names, batch_size)
    before = {} if untouched is None else _judged_all(tuned, every, names, batch_size, untouched)
    content, *more = (_written(judged[name], before.get(name)) for name in every)
    content["unknown_classes"] = unknown_classes(next(iter(every.values()))[1], tuned.data)
    if more:
        content["also"] = [{"data": name, **one} for name, one in zip(list(every)[1:], more, strict=True)]
    return content, judged, before


Judged = tuple[tuple["Metric", ...], tuple["Prediction", ...]]


def _judged_all(
    tuned: Finetuned,
    every: dict[str, tuple[TextData, TextData]],
    names: tuple[str, ...],
    batch_size: int,
    model: TopModel | None = None,
) -> dict[str, Judged]:
    """By file, what `_judged` finds."""
    return {name: _judged(tuned, *both, names, batch_size, model) for name, both in every.items()}


def _judged(
    tuned: Finetuned,
    texts: TextData,
    labelled: TextData,
    names: tuple[str, ...],
    batch_size: int,
    model: TopModel | None = None,
) -> Judged:
    """The metrics of a tuned model, or of another with such a head, and the prediction of every row."""
    from wheretune.judging import judged_every
    from wheretune.tasks.base import task_of

    own = task_of(labelled.info).predicts == task_of(tuned.data).predicts  # of raw text beside, its own metrics alone
    return judged_every(*tuned.answered(texts, batch_size, model), labelled, names if own else ())


def _written(judged: Judged, before: Judged | None) -> dict[str, Any]:
    """Metrics as JSON, the base model's own beside them where they were asked for."""
    from wheretune.records.base import to_json

    metrics, predicted = judged
    lost = sum(row.reason is not None for row in predicted)
    found = {"metrics": [to_json(one) for one in metrics], "rows": len(predicted), "not_counted": lost}
    return found if before is None else found | {"base": [to_json(one) for one in before[0]]}


def _show(folder: Path, judged: dict[str, Judged], before: dict[str, Judged], content: dict[str, Any]) -> None:
    """A table for each file that was judged, one of tasks, and how many rows of the first count in no metric."""
    for name, (found, _) in judged.items():
        show(_measured(f"{folder} on {name}", found, before.get(name)))
    if "lm_eval" in content:
        show(measured(folder, content["lm_eval"]))
    if content.get("not_counted"):
        show(f"{content['not_counted']} of {content['rows']} rows count in no metric")


def _measured(title: str, found: tuple[Metric, ...], before: Judged | None) -> Any:
    """A table of metrics, the base model's own beside them where they were asked for."""
    from wheretune.show.tables import table

    base = {} if before is None else {one.name: f"{one.value:.4f}" for one in before[0]}
    rows = []
    for one in found:
        better = "higher" if one.higher_is_better else "lower"
        rows.append((one.name, f"{one.value:.4f}", *([base.get(one.name, "")] if base else []), str(one.n), better))
    columns = ("metric", "value", *(["base model"] if base else []), "n", "better")
    return table(title, columns, rows, left=("metric", "better"))


def predict(
    base: BaseOptions,
    columns: ColumnOptions,
    decoding: DecodingOptions,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="What `wheretune tune` wrote; without, --model and --task.", show_default=False
        ),
    ] = None,
    data: DataFile = None,
    task_name: Annotated[
        str | None,
        option(
            "--task", "For a model that was not tuned: chat or generation.", default="none", rich_help_panel="Model"
        ),
    ] = None,
    batch_size: BatchSize = 32,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "Where the predictions go, as JSON lines.",
            default="standard output",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Predict labels for texts, or write texts; the data needs no answers. One JSON object per row.

    A row that cannot be read gets an empty answer with its reason. The lines stand in the order of the rows. A model
    that was tuned for chat or generation writes a text per row into a file that grows: stopped and started again, it
    goes on where it was.

    For example:

    wheretune predict runs/mine --data new.jsonl --output predictions.jsonl

    wheretune predict runs/mine --data new.csv | head

    wheretune predict runs/chat --data questions.jsonl --output answers.jsonl --max-new-tokens 200 --num-beams 4

    wheretune predict --model M --task chat --data questions.jsonl --do-sample --temperature 0.7
    """
    source = needed(data, "--data")
    target = None if output is None else file_to_write(output)
    decoding.of_decoding()  # refuses before anything is opened
    where: dict[str, Any] = {"batch_size": batch_size, "output": target, "overwrite": overwrite, "as_json": json_}
    if folder is None:
        write_untuned(source, base, task_name, columns, decoding, where)
        return
    if task_name is not None:
        raise ConfigError("--task has no effect with a model that was tuned for one", "leave it out")
    trained = _trained_on(folder)
    writing = writes(trained.task.name)
    if not writing:
        decoding.refuse()
        if target is not None:
            check_free(target, overwrite)
    texts = _read(trained, source, "asked" if writing else "ignored", columns)
    tuned = _opened(folder, base)
    if writing:
        tuned.let_masters_go()
        about = {"model": tuned.manifest.plan.model.hash, "delta": tuned.manifest.sha256, "dtype": dtype(tuned.model)}
        model, length = tuned.model.stack.model, tuned.max_length
        write(model, tuned.tokenizer, texts, decoding, about=about, max_length=length, **where)
        return
    from wheretune.data.tokens import with_tokens
    from wheretune.judging import answers
    from wheretune.support.files import write_text
    from wheretune.support.lines import written

    if not tuned.model.several:
        texts = with_tokens(texts, tuned.tokenizer)
    rows = answers(tuned.predictions(texts, batch_size), texts)
    if target is None:
        write_out("".join(f"{json_line(row)}\n" for row in rows))
    else:
        write_text(target, written(rows))
        said = f"{len(texts)} predictions in {target}" + (f", {len(texts.unread)} rows without" if texts.unread else "")
        counts = {"output": str(target), "rows": len(rows), "without_label": len(texts.unread)}
        show(None, True, counts) if json_ else note(said)


def merge(
    folder: Folder,
    base: BaseOptions,
    output: Annotated[
        Path | None, option("--output", "Folder of the checkpoint.", metavar="MERGED", rich_help_panel="Output")
    ] = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Write a plain Transformers checkpoint that opens without wheretune.

    For example:

    wheretune merge runs/mine --output merged
    """
    target = needed(output, "--output")
    if target.exists():
        raise OutputError(f"{target} already exists", "choose another --output")
    tuned = _opened(folder, base)
    from wheretune.delta.merging import merge as merge_into

    auto = merge_into(tuned, target)
    how = auto or "AutoModel"
    said = f'{target} opens with {how}.from_pretrained("{target}")'
    if auto is not None:
        said += "; it was seen to give the same logits"
    else:
        said += (
            ". It is the tuned base model without its head: no sequence classifier of this family computes this "
            "head, whose weights lie beside it in head.safetensors. To use both, keep the delta and `wheretune predict`"
        )
    thresholds = tuned.data.task.params.get("thresholds")
    if thresholds:
        named = ", ".join(f"{name} {cut:.4g}" for name, cut in zip(tuned.data.classes, thresholds, strict=True))
        said += f". Its thresholds are no part of it: {named}"
    show(said, json_, {"output": str(target), "opens_with": how, "head_included": auto is not None})


def _trained_on(folder: Path) -> DataInfo:
    """The training data of a tuned model, which is not opened for that."""
    from wheretune.delta.folder import local_folder, read_manifest
    from wheretune.delta.reading import trained_on

    here = local_folder(folder)
    return trained_on(read_manifest(here), here)


def _read(trained: DataInfo, source: str, labels: LabelUse, columns: ColumnOptions) -> TextData:
    """Data as a tuned model was trained on it."""
    from wheretune.delta.reading import read_like

    return read_like(trained, source, labels, columns.given, columns.bad_rows)


def _opened(folder: Path, base: BaseOptions) -> Finetuned:
    """The tuned model, once its folder is seen to hold one."""
    from wheretune.delta.folder import base_spec, local_folder, read_manifest

    here = local_folder(folder)
    spec = there(base.over(base_spec(read_manifest(here), here)))
    from wheretune.delta.opening import open_finetuned

    return open_finetuned(here, spec)
