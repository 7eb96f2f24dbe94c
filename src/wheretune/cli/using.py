"""`evaluate`, `predict` and `merge`: what a tuned model is good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from wheretune.cli.columns import LanguageOptions
from wheretune.cli.groups import group, needed, option
from wheretune.cli.options import AsJson, BaseOptions, Config, DataFile, Metrics, metric_names, there
from wheretune.cli.printing import json_line, note, show, write_out
from wheretune.cli.reporting import file_to_write
from wheretune.errors import OutputError

if TYPE_CHECKING:
    from wheretune.delta.opening import Finetuned

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `wheretune tune` wrote.", show_default=False)]
BatchSize = Annotated[int, option("--batch-size", "Texts in a batch.", rich_help_panel="Data")]


@group
class ColumnOptions(LanguageOptions):
    """Columns that are called otherwise than in the training data."""

    panel: ClassVar[str] = "Data"
    text_column: Annotated[str | None, option("--text-column", "Column with the text.", default="as in training")] = (
        None
    )
    pair_column: Annotated[
        str | None, option("--pair-column", "Column with the second text of a pair.", default="as in training")
    ] = None
    label_column: Annotated[
        str | None, option("--label-column", "Column with the label.", default="as in training")
    ] = None

    target_column: Annotated[
        str | None, option("--target-column", "Column with what follows a source.", default="as in training")
    ] = None

    @property
    def given(self) -> dict[str, str]:
        """Those that were given."""
        every = {name: getattr(self, name) for name in ("text_column", "pair_column", "label_column", "target_column")}
        return {name: column for name, column in every.items() if column is not None} | self.language


def evaluate(
    folder: Folder,
    base: BaseOptions,
    columns: ColumnOptions,
    data: DataFile = None,
    batch_size: BatchSize = 32,
    metric: Metrics = None,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "Where the metrics go, as JSON; the prediction of every row goes beside them.",
            default="none",
            rich_help_panel="Output",
        ),
    ] = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Measure a tuned model on labelled data.

    With --output test.json the prediction of every row goes to predictions-test.jsonl beside it. Rows without a text,
    or with a label that cannot be used, are in no metric; they are counted apart, each with its reason.

    For example:

    wheretune evaluate runs/mine --data test.jsonl

    wheretune evaluate runs/mine --data test.jsonl --output runs/mine/test.json --metric mse
    """
    source, names = needed(data, "--data"), metric_names(metric)
    target = None if output is None else file_to_write(output)
    tuned = _opened(folder, base)
    from wheretune.judging import judged_every, save_predictions
    from wheretune.records.base import to_json
    from wheretune.show.tables import table
    from wheretune.support.files import write_json

    labelled = tuned.read(source, "required", columns.given)
    texts = tuned.read(source, "ignored", columns.given) if labelled.unread else labelled
    found, predicted = judged_every(tuned.logits(texts, batch_size), texts, labelled, names)
    content: dict[str, Any] = {
        "metrics": [to_json(one) for one in found], "rows": len(predicted), "not_counted": len(labelled.unread)
    }  # fmt: skip
    if target is not None:
        content["predictions"] = save_predictions(predicted, target.parent, target.stem)
        write_json(target, content)
    rows = [(m.name, f"{m.value:.4f}", str(m.n), "higher" if m.higher_is_better else "lower") for m in found]
    show(
        table(f"{folder} on {source}", ("metric", "value", "n", "better"), rows, left=("metric", "better")),
        json_,
        content,
    )
    if labelled.unread and not json_:
        show(f"{len(labelled.unread)} of {len(predicted)} rows count in no metric")
    if target is not None:
        note(f"metrics in {target}, predictions in {target.parent / content['predictions']}")


def predict(
    folder: Folder,
    base: BaseOptions,
    columns: ColumnOptions,
    data: DataFile = None,
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
    config: Config = None,
) -> None:
    """Predict labels for texts; the data needs none. One JSON object per row, in the order of the rows.

    A row whose text cannot be read gets an empty answer with its reason.

    For example:

    wheretune predict runs/mine --data new.jsonl --output predictions.jsonl

    wheretune predict runs/mine --data new.csv | head
    """
    source = needed(data, "--data")
    target = None if output is None else file_to_write(output)
    tuned = _opened(folder, base)
    from wheretune.judging import answers
    from wheretune.support.files import write_text

    texts = tuned.read(source, "ignored", columns.given)
    rows = answers(tuned.predictions(texts, batch_size), texts)
    if target is None:
        write_out("".join(f"{json_line(row)}\n" for row in rows))
    else:
        write_text(target, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
        note(f"{len(texts)} predictions in {target}" + (f", {len(texts.unread)} rows without" if texts.unread else ""))


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

    plain = merge_into(tuned, target)
    how = "AutoModelForSequenceClassification" if plain else "AutoModel"
    said = f'{target} opens with {how}.from_pretrained("{target}")'
    if plain:
        said += "; it was seen to give the same logits"
    else:
        said += (
            ". It is the tuned base model without its head: no sequence classifier of this family computes this "
            "head, whose weights lie beside it in head.safetensors. To use both, keep the delta and `wheretune predict`"
        )
    show(said, json_, {"output": str(target), "opens_with": how, "head_included": plain})


def _opened(folder: Path, base: BaseOptions) -> Finetuned:
    """The tuned model, once its folder is seen to hold one."""
    from wheretune.delta.folder import base_spec, local_folder, read_manifest

    here = local_folder(folder)
    spec = there(base.over(base_spec(read_manifest(here), here)))
    from wheretune.delta.opening import open_finetuned

    return open_finetuned(here, spec)
