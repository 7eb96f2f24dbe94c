"""The options of the tasks of language models: columns, templates and what of a text is learned."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from wheretune.cli.groups import Group, group, option
from wheretune.errors import ConfigError


def words_of(verbalizer: str) -> dict[str, str] | None:
    """The word for each class, of `class=word,class=word`; None where nothing was given.

    Raises:
        ConfigError: It is something else.
    """
    if not verbalizer:
        return None
    pairs = [part.split("=", 1) for part in verbalizer.split(",")]
    if not all(len(pair) == 2 and pair[0].strip() and pair[1].strip() for pair in pairs):
        raise ConfigError(f"--verbalizer is {verbalizer!r}", "write class=word,class=word")
    return {name.strip(): word.strip() for name, word in pairs}


def _column(flag: str, text: str, default: str) -> Any:
    return option(flag, text, default=default, metavar="COLUMN")


@group
class LanguageOptions(Group):
    """How rows become texts that a language model learns."""

    panel: ClassVar[str] = "Data"
    messages_column: Annotated[
        str | None,
        _column(
            "--messages-column",
            "For chat: the column of messages, or of ShareGPT's turns.",
            "messages or conversations, if there",
        ),
    ] = None
    prompt_column: Annotated[
        str | None,
        _column("--prompt-column", "For chat: the column of prompts; texts are joined as they stand.", "prompt"),
    ] = None
    completion_column: Annotated[
        str | None, _column("--completion-column", "For chat: the column of completions.", "completion")
    ] = None
    instruction_column: Annotated[
        str | None,
        _column(
            "--instruction-column", "For chat: the column of what a user says, in the chat template.", "instruction"
        ),
    ] = None
    input_column: Annotated[
        str | None, _column("--input-column", "For chat: the column of what follows an instruction.", "input")
    ] = None
    output_column: Annotated[
        str | None, _column("--output-column", "For chat: the column of what the assistant answers.", "output")
    ] = None
    tools_column: Annotated[
        str | None, _column("--tools-column", "For chat: the column of the schemas of tools.", "tools")
    ] = None
    images_column: Annotated[
        str | None,
        _column(
            "--images-column",
            "For chat with a model that sees: the column of images, as paths from the data file's folder.",
            "images or image, if there",
        ),
    ] = None
    turns: Annotated[
        Literal["all", "last"] | None,
        option("--turns", "For chat: which turns of the assistant are learned.", default="all"),
    ] = None
    train_on: Annotated[
        Literal["assistant", "all"] | None,
        option("--train-on", "For chat: learn the assistant's turns, or every token.", default="assistant"),
    ] = None
    chat_template: Annotated[
        str | None,
        option(
            "--chat-template",
            "For chat with a base model: plain, chatml, or a file with a template.",
            default="the tokenizer's",
            metavar="NAME|FILE",
        ),
    ] = None
    source_column: Annotated[
        str | None, _column("--source-column", "For generation: the column of what is given.", "source")
    ] = None
    template: Annotated[
        str | None,
        option(
            "--template",
            "How texts are put together, with {text}, {pair} and {label} for next-token, {source} and {target} for "
            "generation.",
            default="the task's",
        ),
    ] = None
    cut: Annotated[
        Literal["end", "start"] | None,
        option("--cut", "Where a text that is too long is cut.", default="end"),
    ] = None

    @property
    def language(self) -> dict[str, Any]:
        """The task's settings that were given."""
        given = {one.name: getattr(self, one.name) for one in fields(LanguageOptions)}
        if self.chat_template is not None and Path(self.chat_template).is_file():
            given["chat_template"] = str(Path(self.chat_template).absolute())
        return {name: value for name, value in given.items() if value is not None}


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
    bad_rows: Annotated[
        Literal["refuse", "skip"],
        option("--bad-rows", "Rows that cannot be read: refuse the data, or answer them with nothing and the reason."),
    ] = "skip"

    @property
    def given(self) -> dict[str, str]:
        """Those that were given."""
        every = {name: getattr(self, name) for name in ("text_column", "pair_column", "label_column", "target_column")}
        return {name: column for name, column in every.items() if column is not None} | self.language
