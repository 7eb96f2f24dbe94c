"""Conversations: what the assistant says is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data import dialects
from wheretune.data.cells import Fault
from wheretune.data.chat import Renderer
from wheretune.data.chat_templates import has_template, named_template, require_template
from wheretune.data.examples import Example
from wheretune.data.reading import rows_in_words
from wheretune.data.shortening import shortened
from wheretune.data.spans import Encoder
from wheretune.data.turns import MARKED, CannotRender
from wheretune.errors import DataError
from wheretune.support.log import log
from wheretune.tasks.language import LanguageTask

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse

LISTS = ("messages", "conversations", "conversation")  # how public data sets call their conversations


@final
@dataclass(frozen=True)
class Chat(LanguageTask):
    """Conversations through the tokenizer's own chat template; the loss is on what the assistant says, with its end.

    Decided: a prompt and a completion that are texts are joined as they stand, without a template. Of a prompt and a
        completion that are messages, only the completion's turns are learned. Of the control tokens that people wrote
        into a content, those that the tokenizer calls special are words; `<think>` and its kin are read as tokens.

    Attributes:
        messages_column: The column of messages (`role` and `content`) or of ShareGPT's turns (`from` and `value`);
            found by default, as are the next ones.
        prompt_column: The column of what is given: a text, or messages.
        completion_column: The column of what follows.
        instruction_column: The column of Alpaca's instruction.
        input_column: The column of its input.
        output_column: The column of its output.
        tools_column: The column of the schemas of tools.
        turns: Which turns of the assistant are learned.
        train_on: Whether the assistant's turns are learned, or every token.
        cut: Where a conversation that is too long is cut.
        chat_template: In place of the tokenizer's own: `plain`, `chatml`, a file, or a template as it stands.
    """

    messages_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    instruction_column: str | None = None
    input_column: str | None = None
    output_column: str | None = None
    tools_column: str | None = None
    turns: Literal["all", "last"] = "all"
    train_on: Literal["assistant", "all"] = "assistant"
    cut: Literal["end", "start"] = "end"
    chat_template: str | None = None
    name: ClassVar[str] = "chat"

    def __post_init__(self) -> None:
        named_template(self.chat_template)

    def form(self, table: Table) -> str:
        """What its columns make of a table: `messages`, `prompt` (and completion) or `instruction` (and output)."""
        if self.messages_column is not None:
            return "messages"
        if self.prompt_column is not None or self.completion_column is not None:
            return "prompt"
        if self.instruction_column is not None or self.output_column is not None:
            return "instruction"
        return recognised(table) or "messages"

    def columns(self, table: Table) -> dict[str, str]:
        """By setting, the columns that are read of a table: those of its form, and the tools'."""
        found = next((name for name in LISTS if table.has(name)), LISTS[0])
        usual = {
            "messages": {"messages_column": found},
            "prompt": {"prompt_column": "prompt", "completion_column": "completion"},
            "instruction": {"instruction_column": "instruction", "input_column": "input", "output_column": "output"},
        }[self.form(table)] | {"tools_column": "tools"}
        return {setting: getattr(self, setting) or name for setting, name in usual.items()}

    def _read(self, table: Table) -> tuple[list[str | dialects.BadRow], str]:
        """Each row as the JSON of its conversation, or why it is none; and the setting that names its column."""
        form, columns, cells = self.form(table), self.columns(table), []
        for setting, column in columns.items():
            optional = setting in ("input_column", "tools_column") and getattr(self, setting) is None
            missing = optional and not table.has(column)
            cells.append([None] * len(table) if missing else table.column(column, setting))
        readers: dict[str, Callable[..., str]] = {
            "messages": dialects.of_messages,
            "prompt": dialects.of_prompt,
            "instruction": dialects.of_instruction,
        }
        made: list[str | dialects.BadRow] = []
        for row in zip(*cells, strict=True):
            try:
                made.append(readers[form](*row))
            except dialects.BadRow as bad:
                made.append(bad)
        return made, next(iter(columns))

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        rows, setting = self._read(table)
        return {place: Fault(str(row), setting) for place, row in enumerate(rows) if isinstance(row, dialects.BadRow)}

    def texts(self, table: Table) -> tuple[list[tuple[str, ...]], list[str] | None]:
        return [(row,) for row in self._read(table)[0] if isinstance(row, str)], None

    def describe(self, classes: Sequence[str]) -> str:
        what = "every token" if self.train_on == "all" else "the assistant's turns"
        return f"chat, {'the last of ' if self.turns == 'last' else ''}{what} learned"

    def equip(self, tokenizer: Any) -> None:
        if (template := named_template(self.chat_template)) is not None:
            tokenizer.chat_template = template

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        encoder, template = Encoder(tokenizer), named_template(self.chat_template)
        renderer = Renderer(tokenizer, template, encoder.special, encoder.added)
        said: set[str] = set()
        unmarked = self.train_on == "assistant" and not any(map(MARKED.search, _written(tokenizer, template)))
        for place, (text,) in enumerate(data.texts):
            conversation, row = json.loads(text), data.rows[place]
            if "prompt" in conversation:
                _say(said, "prompt and completion are texts and are joined as they stand, without the chat template; "
                     "as instruction and output (instruction_column, output_column) they go through it")  # fmt: skip
                yield self._joined(encoder, conversation, row, max_length)
                continue
            require_template(tokenizer, template)
            if unmarked:
                _say(said, "the chat template marks nothing as the assistant's; its turns are found by their places")
            try:
                yield self._example(encoder, renderer, conversation, row, max_length, said)
            except CannotRender as refused:
                why = f"the chat template refuses the conversation: {refused}"
                if data.info.spec.bad_rows == "refuse":
                    where = rows_in_words([place], data.rows)
                    raise DataError(
                        f"{why}, in {where} of {data.info.spec.source}",
                        "mend such rows, or leave them out with bad_rows=skip",
                        "bad_rows",
                    ) from refused
                yield Example((row,), (), (), left_out=why)

    def _joined(self, encoder: Encoder, conversation: dict[str, Any], row: int, max_length: int) -> Example:
        """A prompt and a completion, as they stand."""
        before, after = conversation["prompt"], conversation["completion"]
        tokens = encoder(encoder.pieces([(before + after, False)]), (len(before),))
        ids, learned = list(tokens.ids), tokens.touching(len(before), len(before) + len(after))
        if tuple(ids[: len(encoder.beginning)]) != encoder.beginning:
            ids, learned = [*encoder.beginning, *ids], [False] * len(encoder.beginning) + learned
        if encoder.end is not None and ids[-1:] != [encoder.end]:
            ids, learned = [*ids, encoder.end], [*learned, True]
        if self.train_on == "all":
            learned = [True] * len(ids)
        return shortened((row,), ids, learned, max_length, self.cut)

    def _example(
        self,
        encoder: Encoder,
        renderer: Renderer,
        conversation: dict[str, Any],
        row: int,
        max_length: int,
        said: set[str],
    ) -> Example:
        made = renderer(
            conversation["messages"], conversation.get("tools"), conversation.get("given", 0), self.turns == "last"
        )
        cuts = [edge for span in made.learned for edge in span]
        tokens = encoder(encoder.pieces(made.parts), cuts)
        ids, learned = list(tokens.ids), [False] * len(tokens.ids)
        for span in made.learned:
            learned = [one or two for one, two in zip(learned, tokens.touching(*span), strict=True)]
        if made.unended and made.learned:
            _say(said, "the chat template ends no turn; the end token is appended to the last")
            if encoder.end is not None and ids[-1:] != [encoder.end]:
                ids, learned = [*ids, encoder.end], [*learned, True]
        if self.train_on == "all":
            learned = [True] * len(ids)
        why = "the template writes nothing of the assistant's" if made.turns else "no assistant turn"
        return shortened((row,), ids, learned, max_length, self.cut, None if made.learned else why)


def recognised(table: Table) -> str | None:
    """The form of conversations that a table has by its columns; None where it has none."""
    if any(map(table.has, LISTS)):
        return "messages"
    if table.has("prompt") and table.has("completion"):
        return "prompt"
    return "instruction" if table.has("instruction") and table.has("output") else None


def _written(tokenizer: Any, template: str | None) -> list[str]:
    """The templates that a tokenizer has."""
    if template is not None:
        return [template]
    if not has_template(tokenizer):
        return []
    own = tokenizer.chat_template
    return list(own.values()) if isinstance(own, dict) else [own]


def _say(said: set[str], what: str) -> None:
    """Says something once."""
    if what not in said:
        said.add(what)
        log.warning("%s", what)
