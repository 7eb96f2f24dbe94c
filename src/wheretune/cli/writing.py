"""What `predict` does with a model that writes: the options of decoding, and the file that grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from wheretune.cli.groups import Group, group, needed, option
from wheretune.cli.options import BaseOptions, Seed, there
from wheretune.cli.printing import json_line, note, show, write_out
from wheretune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from wheretune.cli.columns import ColumnOptions
    from wheretune.data.texts import TextData
    from wheretune.records.decoding import Decoding

CHECKPOINT = "the checkpoint's, or "
STOPS: Mapping[str, Any] = {"true": True, "false": False, "never": "never"}


@group
class DecodingOptions(Group):
    """How a model writes; the names are Transformers'."""

    panel: ClassVar[str] = "Writing"
    decoding: Annotated[
        Literal["e2e"] | None,
        option("--decoding", "A preset: e2e is LoRA's way to decode E2E. What else is given goes before it."),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        option("--max-new-tokens", "Tokens that are written at most.", default=f"{CHECKPOINT}256 if there is room"),
    ] = None
    num_beams: Annotated[
        int | None, option("--num-beams", "Beams that are searched.", default=f"{CHECKPOINT}1, the likeliest token")
    ] = None
    do_sample: Annotated[
        bool | None,
        option("--do-sample/--no-do-sample", "Draw every token.", default=f"{CHECKPOINT}no"),
    ] = None
    temperature: Annotated[
        float | None, option("--temperature", "Divide logits by this before drawing.", default=f"{CHECKPOINT}1")
    ] = None
    top_p: Annotated[
        float | None,
        option("--top-p", "Draw among the likeliest tokens of this probability together.", default=f"{CHECKPOINT}1"),
    ] = None
    top_k: Annotated[
        int | None,
        option("--top-k", "Draw among so many of the likeliest tokens; 0 is all.", default=f"{CHECKPOINT}50"),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option("--repetition-penalty", "Divide logits of tokens that are there by this.", default=f"{CHECKPOINT}1"),
    ] = None
    length_penalty: Annotated[
        float | None,
        option("--length-penalty", "The power of the length that divides a beam's score.", default=f"{CHECKPOINT}1"),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        option("--no-repeat-ngram-size", "No n-gram of this size is written twice.", default=f"{CHECKPOINT}none"),
    ] = None
    early_stopping: Annotated[
        Literal["true", "false", "never"] | None,
        option("--early-stopping", "When a search of beams ends.", default=f"{CHECKPOINT}false"),
    ] = None
    seed: Seed = 0
    max_length: Annotated[
        int | None, option("--max-length", "Tokens a prompt is cut to.", default="as in training")
    ] = None

    def of_decoding(self) -> Decoding:
        """The record.

        Raises:
            ConfigError: A setting cannot be used.
        """
        from wheretune.records.decoding import Decoding

        given = {name: value for name, value in vars(self).items() if value is not None and name != "max_length"}
        if self.early_stopping is not None:
            given["early_stopping"] = STOPS[self.early_stopping]
        if "decoding" in given:
            given["rules"] = given.pop("decoding")
        return Decoding(**given)

    def refuse(self) -> None:
        """Refuses all that was given: the model writes nothing.

        Raises:
            ConfigError: Something was.
        """
        for name, value in vars(self).items():
            if value is not None and name != "seed":
                words = f"{name.replace('_', ' ')} is {value}, which has no effect"
                raise ConfigError(f"{words} with a model that predicts labels", "leave it out", name)


def writes(task: str) -> bool:
    """Whether a model of this task answers with texts, and not with labels.

    Raises:
        ConfigError: It does neither.
    """
    from wheretune import catalog
    from wheretune.tasks.language import Writing

    kind = catalog.find("task", task)
    if issubclass(kind, Writing):
        return True
    if not {"classes", "values", "label-sets"} & set(kind.predicts):
        raise ConfigError(
            f"a model of the task {task} predicts no label, and is asked nothing that it could answer",
            "merge the run (wheretune merge), and let transformers go on with texts of your own",
        )
    return False


def write(
    model: nn.Module,
    tokenizer: Any,
    texts: TextData,
    options: DecodingOptions,
    *,
    about: Mapping[str, Any],
    max_length: int | None,
    batch_size: int,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Writes a text for every row, to standard output or into a file that grows.

    Args:
        model: The language model.
        tokenizer: Its tokenizer.
        texts: Rows to be answered.
        options: How.
        about: What the file is of, beside the texts.
        max_length: Tokens a prompt is cut to, where the options do not say.
        batch_size: Prompts in a batch.
        output: The file.
        overwrite: Start the file over.
        as_json: Print JSON about the file.

    Raises:
        DataError: No row can be answered.
    """
    from wheretune.generating import job_of, lines_of
    from wheretune.support.files import write_text
    from wheretune.support.lines import growing, written

    job = job_of(model, tokenizer, texts, options.of_decoding(), options.max_length or max_length)
    if not job.prompts:
        row, why = min(job.unread.items())
        source = texts.info.spec.source
        raise DataError(f"no row of {source} can be answered: {why} in row {row + 1} (the first is 1)", "mend the data")
    if output is None or (output.exists() and not output.is_file()):  # nothing that could be gone on with
        every = [line for some in lines_of(job, model, tokenizer, batch_size) for line in some]
        every.sort(key=lambda line: int(line["row"]))
        if output is None:
            write_out("".join(f"{json_line(line)}\n" for line in every))
        else:
            write_text(output, written(every))
        if job.unread:
            note(f"{len(job.unread)} of {len(every)} rows without a text")
        return
    with growing(output, {**about, **job.content()}, overwrite=overwrite) as lines:
        for some in lines_of(job, model, tokenizer, batch_size, lines.rows):
            lines.add(some)
        lines.finish()
    rows, lost = len(lines.rows), len(job.unread)
    if as_json:
        show(None, True, {"output": str(output), "rows": rows, "without_text": lost})
    else:
        note(f"{rows - lost} texts in {output}" + (f", {lost} rows without" if lost else ""))


def write_untuned(
    source: str,
    base: BaseOptions,
    task: str | None,
    columns: ColumnOptions,
    decoding: DecodingOptions,
    where: dict[str, Any],
) -> None:
    """Lets a model that was not tuned write.

    Raises:
        ConfigError: No model or no task was named, or one that does not write.
    """
    from wheretune.records.base import Spec
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec

    if base.model is None:
        raise ConfigError("DIR is missing", "give what `wheretune tune` wrote, or --model and --task")
    name = needed(task, "--task")
    if not writes(name):
        raise ConfigError(
            f"a model that was not tuned predicts no label, and {name} asks for one",
            "tune it first, or name a task that writes: chat or generation",
            "task",
        )
    spec = there(base.over(ModelSpec(base.model)))
    from wheretune.data.sources import located
    from wheretune.tasks.loading import load_data

    read = DataSpec(located(source, "test", "validation"), Spec(name, columns.given), bad_rows=columns.bad_rows)
    texts = load_data(read, labels="asked")
    from wheretune.model.opening import open_model

    opened = open_model(spec, language=True)
    about = {"model": opened.info.hash, "delta": None, "dtype": dtype(opened.stack.model)}
    write(opened.stack.model, opened.tokenizer, texts, decoding, about=about, max_length=None, **where)


def dtype(model: nn.Module) -> str:
    """The precision of a model's weights."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
