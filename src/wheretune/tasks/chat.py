"""Conversations: what the assistant says is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data import dialects
from wheretune.data.cells import Fault
from wheretune.data.chat import Rendered, Renderer
from wheretune.data.chat_templates import has_template, named_template, require_template
from wheretune.data.control import around_a_turn
from wheretune.data.examples import Example, Prompt
from wheretune.data.eyes import CannotSee, Eyes, eyes_of, looked_at, require_eyes
from wheretune.data.images import COLUMNS as IMAGES
from wheretune.data.images import image_files, with_images
from wheretune.data.reading import rows_in_words
from wheretune.data.shortening import shortened
from wheretune.data.spans import Encoder, Tokens, added_tokens
from wheretune.data.turns import ASSISTANTS, MARKED, CannotRender
from wheretune.errors import DataError
from wheretune.support.log import log
from wheretune.tasks.language import LanguageTask

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse

STAND_IN = "A"  # for an answer that is not there
LISTS = ("messages", "conversations", "conversation")  # how public data sets call their conversations


@final
@dataclass(frozen=True)
class Chat(LanguageTask):
    """Conversations through the tokenizer's own chat template; the loss is on what the assistant says, with its end.

    Decided: a prompt and a completion that are texts are joined as they stand, without a template. Of a prompt and a
        completion that are messages, only the completion's turns are learned. Of the control tokens that people wrote
        into a content, those that the tokenizer calls special are words, and so are those that the template writes
        around a turn; `<think>` and its kin are read as tokens.

    Attributes:
        messages_column: The column of messages (`role` and `content`) or of ShareGPT's turns (`from` and `value`);
            found by default, as are the next ones.
        prompt_column: The column of what is given: a text, or messages.
        completion_column: The column of what follows.
        instruction_column: The column of Alpaca's instruction.
        input_column: The column of its input.
        output_column: The column of its output.
        tools_column: The column of the schemas of tools.
        images_column: The column of the images of a row, as paths; see `data/images.py`. They are never learned.
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
    images_column: str | None = None
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
        unanswered = (name for name in ("prompt", "instruction") if table.has(name))
        return recognised(table) or next(unanswered, "messages")

    def columns(self, table: Table) -> dict[str, str]:
        """By setting, the columns that are read of a table: those of its form, and the tools'."""
        usual = {
            "messages": {"messages_column": next((name for name in LISTS if table.has(name)), LISTS[0])},
            "prompt": {"prompt_column": "prompt", "completion_column": "completion"},
            "instruction": {"instruction_column": "instruction", "input_column": "input", "output_column": "output"},
        }[self.form(table)] | {"tools_column": "tools"}
        return {setting: getattr(self, setting) or name for setting, name in usual.items()}

    def _cells(self, table: Table, use: LabelUse) -> list[list[Any]]:
        """The cells of these columns; where rows are to be answered, something stands in for an answer not there."""
        cells = []
        for setting, column in self.columns(table).items():
            optional = setting in ("input_column", "tools_column") and getattr(self, setting) is None
            answer = setting in ("completion_column", "output_column") and use == "asked"
            missing = (optional or answer) and not table.has(column)
            found = [None] * len(table) if missing else table.column(column, setting)
            cells.append([STAND_IN if answer and cell is None else cell for cell in found])
        return cells

    def _read(self, table: Table, use: LabelUse) -> tuple[list[str | dialects.BadRow], str]:
        """Each row as the JSON of its conversation, or why it is none; and the setting that names its column."""
        if self.form(table) == "messages" and self.messages_column is None and not any(map(table.has, LISTS)):
            raise _no_conversations(table)
        form, columns, cells = self.form(table), self.columns(table), self._cells(table, use)
        readers: dict[str, Callable[..., str]] = {
            "messages": dialects.of_messages,
            "prompt": dialects.of_prompt,
            "instruction": dialects.of_instruction,
        }
        made: list[str | dialects.BadRow] = []
        for row, shown in zip(zip(*cells, strict=True), self._shown(table), strict=True):
            try:
                if isinstance(shown, dialects.BadRow):
                    raise shown
                made.append(with_images(readers[form](*row), shown))
            except dialects.BadRow as bad:
                made.append(bad)
        return made, next(iter(columns))

    def _shown(self, table: Table) -> list[tuple[str, ...] | dialects.BadRow]:
        """The images of each row, or why it has none that can be shown."""
        name = self.images_column or next((one for one in IMAGES if table.has(one)), None)
        if name is None:
            return [()] * len(table)
        made: list[tuple[str, ...] | dialects.BadRow] = []
        for cell, folder in zip(table.column(name, "images_column"), table.folders(), strict=True):
            try:
                made.append(image_files(cell, folder))
            except dialects.BadRow as bad:
                made.append(bad)
        return made

    def images(self, table: Table) -> list[tuple[str, ...]]:
        return [files for files in self._shown(table) if not isinstance(files, dialects.BadRow)]

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        rows, setting = self._read(table, use)
        return {place: Fault(str(row), setting) for place, row in enumerate(rows) if isinstance(row, dialects.BadRow)}

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        return [(row,) for row in self._read(table, "asked")[0] if isinstance(row, str)], None

    def describe(self, classes: Sequence[str]) -> str:
        what = "every token" if self.train_on == "all" else "the assistant's turns"
        return f"chat, {'the last of ' if self.turns == 'last' else ''}{what} learned"

    def equip(self, tokenizer: Any) -> None:
        if (template := named_template(self.chat_template)) is not None:
            tokenizer.chat_template = template

    def _reader(self, tokenizer: Any, data: TextData | None = None) -> _Reader:
        """What reads the conversations of some data.

        Raises:
            ModelError: They have images, and the model has no eyes.
        """
        template, shown = named_template(self.chat_template), data is not None and any(data.images or ())
        eyes = require_eyes(tokenizer) if shown else eyes_of(tokenizer)
        image = None if eyes is None else eyes.token
        control = around_a_turn(tokenizer, template, added_tokens(tokenizer))
        encoder = Encoder(tokenizer, control if image is None else [*control, image])
        return _Reader(encoder, Renderer(tokenizer, template, encoder.special, encoder.added, image), template, eyes)

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        reader = self._reader(tokenizer, data)
        said: set[str] = set()
        unmarked = self.train_on == "assistant" and not any(map(MARKED.search, _written(tokenizer, reader.template)))
        for place, (text,) in enumerate(data.texts):
            conversation, row = json.loads(text), data.rows[place]
            if "prompt" in conversation:
                _say(said, "prompt and completion are texts and are joined as they stand, without the chat template; "
                     "as instruction and output (instruction_column, output_column) they go through it")  # fmt: skip
                yield self._joined(reader.encoder, conversation, row, max_length)
                continue
            require_template(tokenizer, reader.template)
            if unmarked:
                _say(said, "the chat template marks nothing as the assistant's; its turns are found by their places")
            files = () if data.images is None else data.images[place]
            try:
                yield replace(self._example(reader, conversation, files, row, max_length, said), images=files)
            except CannotRender as refused:
                if data.info.spec.bad_rows == "refuse":
                    where = rows_in_words([place], data.rows)
                    raise DataError(
                        f"{_why(refused)}, in {where} of {data.info.spec.source}",
                        "mend such rows, or leave them out with bad_rows=skip",
                        "bad_rows",
                    ) from refused
                yield Example((row,), (), (), left_out=_why(refused))

    def _joined(self, encoder: Encoder, conversation: dict[str, Any], row: int, max_length: int) -> Example:
        """A prompt and a completion, as they stand."""
        before, after = conversation["prompt"], conversation["completion"]
        tokens = encoder(encoder.pieces([(before + after, False)]), (len(before),))
        ids, learned = _begun(encoder, list(tokens.ids)), tokens.touching(len(before), len(before) + len(after))
        learned = [False] * (len(ids) - len(learned)) + learned
        if encoder.end is not None and ids[-1:] != [encoder.end]:
            ids, learned = [*ids, encoder.end], [*learned, True]
        if self.train_on == "all":
            learned = [True] * len(ids)
        return shortened((row,), ids, learned, max_length, self.cut)

    def _example(
        self,
        reader: _Reader,
        conversation: dict[str, Any],
        files: tuple[str, ...],
        row: int,
        max_length: int,
        said: set[str],
    ) -> Example:
        made = reader.renderer(
            conversation["messages"], conversation.get("tools"), conversation.get("given", 0), self.turns == "last"
        )
        made = reader.looking(made, files)
        encoder, cuts = reader.encoder, [edge for span in (*made.learned, *made.images) for edge in span]
        tokens = encoder(encoder.pieces(made.parts), cuts)
        ids, learned, of_images = list(tokens.ids), _covering(tokens, made.learned), _covering(tokens, made.images)
        if made.unended and made.learned:
            end = "nor is there an end token" if encoder.end is None else "the end token is appended to the last"
            _say(said, f"the chat template ends no turn; {end}")
            if encoder.end is not None and ids[-1:] != [encoder.end]:
                ids, learned, of_images = [*ids, encoder.end], [*learned, True], [*of_images, False]
        ids = reader.begun(ids)
        before = [False] * (len(ids) - len(learned))
        learned, of_images = [*before, *learned], [*before, *of_images]
        if self.train_on == "all":
            learned = [True] * len(ids)
        learned = [one and not two for one, two in zip(learned, of_images, strict=True)]
        why = "the template writes nothing of the assistant's" if made.turns else "no assistant turn"
        return shortened((row,), ids, learned, max_length, self.cut, None if made.learned else why, of_images)

    def prompts(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Prompt]:
        reader = self._reader(tokenizer, data)
        for place, (row, (text,)) in enumerate(zip(data.rows, data.texts, strict=True)):
            conversation, files = json.loads(text), () if data.images is None else data.images[place]
            if "prompt" in conversation:
                ids = _begun(reader.encoder, reader.encoder.before([(conversation["prompt"], False)]))
                yield _prompt(row, ids, "", max_length, tokenizer)
                continue
            require_template(tokenizer, reader.template)
            messages: list[Any] = conversation["messages"][: conversation.get("given")]
            if "given" not in conversation and messages[-1]["role"] in ASSISTANTS:
                messages = messages[:-1]
            try:
                ids = reader.begun(_asking(reader, messages, conversation.get("tools"), files)) if messages else []
            except CannotRender as refused:
                yield Prompt(row, (), None, left_out=_why(refused))
                continue
            yield _prompt(row, ids, None, max_length, tokenizer, files)

    def endings(self, tokenizer: Any) -> frozenset[int]:
        reader = self._reader(tokenizer)
        encoder = reader.encoder
        found = set() if encoder.end is None else {encoder.end}
        if reader.template is not None or has_template(tokenizer):
            said = [{"role": "user", "content": "A"}, {"role": "assistant", "content": encoder.stand_in}]
            try:
                made = reader.renderer(said, None)
            except CannotRender:
                return frozenset(found)
            ids = encoder(encoder.pieces(made.parts), [edge for span in made.learned for edge in span])
            last = [i for i, one in zip(ids.ids, ids.touching(*made.learned[-1]), strict=True) if one][-1:]
            found |= {token for token in last if token in tokenizer.added_tokens_decoder}
        return frozenset(found)


@dataclass(frozen=True, eq=False)
class _Reader:
    """What reads conversations.

    Attributes:
        encoder: Reads text.
        renderer: Writes conversations.
        template: In place of the tokenizer's own.
        eyes: Of a model that sees.
    """

    encoder: Encoder
    renderer: Renderer
    template: str | None
    eyes: Eyes | None

    def looking(self, made: Rendered, files: Sequence[str]) -> Rendered:
        """A conversation with what the processor writes in the places of its images.

        Raises:
            CannotRender: It has other places than images, or the processor does not take these.
        """
        return made if self.eyes is None else looked_at(made, self.eyes.token, self.eyes.words(files) if files else ())

    def begun(self, ids: list[int]) -> list[int]:
        """Tokens with what stands before every text: processors write it before a conversation, tokenizers do not."""
        return ids if self.eyes is None else _begun(self.encoder, ids)


def _covering(tokens: Tokens, spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token covers a character of some spans."""
    found = [False] * len(tokens.ids)
    for span in spans:
        found = [one or two for one, two in zip(found, tokens.touching(*span), strict=True)]
    return found


def _why(refused: CannotRender) -> str:
    """Why a conversation cannot be read."""
    return str(refused) if isinstance(refused, CannotSee) else f"the chat template refuses the conversation: {refused}"


def _begun(encoder: Encoder, ids: list[int]) -> list[int]:
    """Tokens with what the tokenizer writes before every text, once."""
    return ids if tuple(ids[: len(encoder.beginning)]) == encoder.beginning else [*encoder.beginning, *ids]


def _asking(reader: _Reader, messages: list[Any], tools: list[Any] | None, files: Sequence[str] = ()) -> list[int]:
    """The tokens after which the assistant speaks: those before the first that would hold a letter of its answer.

    Where a template asks for no turn, what it writes before one asks for it.

    Raises:
        CannotRender: The template refuses the conversation, or leaves the assistant out.
    """
    encoder = reader.encoder
    parts = reader.renderer.asking(messages, tools)
    if parts is not None:
        return encoder.before(reader.looking(Rendered(parts, (), False, 0), files).parts)
    made = reader.renderer([*messages, {"role": "assistant", "content": encoder.stand_in}], tools, len(messages))
    if not made.learned:
        raise CannotRender("it writes nothing of the assistant's")
    made = reader.looking(made, files)
    tokens = encoder(encoder.pieces(made.parts), made.learned[0])
    return list(tokens.ids[: tokens.touching(*made.learned[0]).index(True)])


def _prompt(
    row: int, ids: list[int], lead: str | None, max_length: int, tokenizer: Any, files: tuple[str, ...] = ()
) -> Prompt:
    """A prompt of at most `max_length` tokens, cut behind its beginning: what is asked stands at its end."""
    first = int(ids[:1] == [tokenizer.bos_token_id])
    kept = ids if len(ids) <= max_length else [*ids[:first], *ids[len(ids) - max_length + first :]]
    left_out = None if ids else "nothing stands before the answer"
    if files and len(kept) < len(ids):  # a cut might go through an image
        left_out = f"its {len(ids)} tokens, those of images included, do not fit into {max_length}"
    return Prompt(row, tuple(kept), lead, len(ids) - len(kept), left_out, files)


def _no_conversations(table: Table) -> DataError:
    return DataError(
        f"{table.source} has no column {LISTS[0]!r} (its columns: {table.columns})",
        "name the column of conversations, or those of questions and answers (instruction_column) and "
        "(output_column); as (prompt_column) and (completion_column) they are joined without the template",
        "messages_column",
    )


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
