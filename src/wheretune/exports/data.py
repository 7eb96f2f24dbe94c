"""What other tools are told of some data: read as `tune` reads it, and refused where a tool would learn something else.

Where a tool differs in something that its config cannot say, a note says so in the config itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from wheretune.data.dialects import without_gaps
from wheretune.data.reading import read_table
from wheretune.data.sources import HubData, places
from wheretune.errors import ConfigError
from wheretune.tasks.base import task_of
from wheretune.tasks.chat import Chat
from wheretune.tasks.generation import Generation
from wheretune.tasks.loading import load_data
from wheretune.tasks.text import Text

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.records.data import DataSpec

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}  # of `datasets`
USUAL_LENGTH = 512  # what a text is cut to where nobody says; see model/reach.py
LENGTH = f"Nobody said a length, so {USUAL_LENGTH} stands here: wheretune cuts there where the model has the positions."
CONTROL = "Control tokens that people wrote into a content are words in `wheretune preview`, and tokens here."


@dataclass(frozen=True)
class Piece:
    """What a tool's config says of some data.

    Attributes:
        content: Its keys.
        notes: What the config cannot say, a sentence or two each.
        beside: By name, JSON files that lie beside the config.
    """

    content: Mapping[str, Any]
    notes: Sequence[str] = ()
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """Some data, of which a tool is told.

    Attributes:
        tool: What the tool calls itself.
        spec: Where the data is, and how it is read.
        task: Its task.
        table: Its rows as they stand in the files.
        texts: What the task made of each row.
        folder: Where the config will lie.
    """

    tool: str
    spec: DataSpec
    task: Chat | Generation | Text
    table: Table
    texts: Sequence[tuple[str, ...]]
    folder: Path

    @cached_property
    def form(self) -> str:
        """`messages`, `prompt` (texts), `turns` (a prompt and a completion of messages), `instruction` or the task."""
        if not isinstance(self.task, Chat):
            return self.task.name
        form = self.task.form(self.table)
        return "turns" if form == "prompt" and "messages" in self.conversations[0] else form

    @cached_property
    def conversations(self) -> list[dict[str, Any]]:
        """The conversations of a chat, as they are rendered."""
        return [json.loads(text) for (text, *_) in self.texts]

    @cached_property
    def columns(self) -> dict[str, str]:
        """By setting, the columns that are read and there; the tools' only where a row has tools."""
        if not isinstance(self.task, Chat):
            names = ("text_column",) if isinstance(self.task, Text) else ("source_column", "target_column")
            return {name: getattr(self.task, name) for name in names}
        found = self.task.columns(self.table)
        tools = {"tools_column": found.pop("tools_column")} if any("tools" in one for one in self.conversations) else {}
        return {name: column for name, column in found.items() if self.table.has(column)} | tools

    @property
    def max_length(self) -> int:
        """Tokens an example is cut to."""
        return self.spec.max_length or USUAL_LENGTH

    @property
    def notes(self) -> list[str]:
        """What is to be said of all tools."""
        return [*([] if self.spec.max_length else [LENGTH]), *([CONTROL] if isinstance(self.task, Chat) else [])]

    @property
    def everything(self) -> bool:
        """Whether every token of a chat is learned."""
        return isinstance(self.task, Chat) and self.task.train_on == "all"

    @property
    def last_alone(self) -> bool:
        """Whether some turns of the assistant are not learned, since they are not the last."""
        if not isinstance(self.task, Chat) or self.task.turns == "all" or self.everything:
            return False
        learned = ([m["role"] for m in one.get("messages", [])[one.get("given", 0) :]] for one in self.conversations)
        return any(roles.count("assistant") > 1 for roles in learned)

    def refuse(self, problem: str, way_out: str, setting: str | None = None) -> NoReturn:
        """Refuses what the tool would make something else of."""
        raise ConfigError(f"{self.tool} {problem}", way_out, setting)

    def files(self) -> list[tuple[str, str] | HubData]:
        """Each file with what reads it in Hugging Face's `datasets`, and each data set of the hub.

        Raises:
            ConfigError: There is one that `datasets` does not read as wheretune does.
        """
        found: list[tuple[str, str] | HubData] = []
        for place in places(self.spec.source):
            if isinstance(place, HubData):
                found.append(place)
            elif reader := READERS.get(Path(place).suffix.lower()):
                found.append((str(Path(place).absolute()), reader))
            else:
                self.refuse(f"does not read {place} as it is", f"give a file that ends in {', '.join(READERS)}", "data")
        return found

    def voices(self) -> tuple[tuple[str, str], dict[str, str]]:
        """What the messages call a role and a content, and by speaker the role.

        Raises:
            ConfigError: A conversation is not written as the tool would read it.
        """
        column = self.columns["messages_column"]
        cells = [without_gaps(cell) for cell in self.table.column(column, "messages_column")]
        first: Any = next((one for cell in cells if isinstance(cell, list) for one in cell), {})
        role, content = ("from", "value") if "from" in first and "role" not in first else ("role", "content")
        keys, names = {role: "role", content: "content"}, dict[str, str]()
        for number, (cell, made) in enumerate(zip(cells, self.conversations, strict=True), 1):
            read = made["messages"]
            same = isinstance(cell, list) and len(cell) == len(read)
            for one, two in zip(cell, read, strict=True) if same else ():
                alike = {keys.get(key, key): value for key, value in one.items()} | {"role": two["role"]} == two
                same &= alike and names.setdefault(one.get(role), two["role"]) == two["role"]
            if not same:
                self.refuse(
                    f"would read the conversation in row {number} of {self.spec.source} otherwise than wheretune",
                    f"write it as a list of {role} and {content}, both texts, without calls under from and value",
                    "messages_column",
                )
        return (role, content), names

    def texts_of(self, *settings: str) -> list[tuple[Any, ...]]:
        """The cells of some columns, row by row."""
        return list(zip(*(self.table.column(self.columns[name], name) for name in settings), strict=True))

    def check_texts(self, *settings: str) -> None:
        """Refuses cells of these columns that are no texts.

        Raises:
            ConfigError: There is one.
        """
        for number, cells in enumerate(self.texts_of(*settings), 1):
            if not all(isinstance(cell, str) for cell in cells):
                self.refuse(
                    f"needs one text in each of these columns, and row {number} has none", "mend it", settings[0]
                )


def told(tool: str, spec: DataSpec, folder: Path) -> Told:
    """The data, checked.

    Args:
        tool: What the tool calls itself.
        spec: Where the data is, and how it is read.
        folder: Where the config will lie.

    Raises:
        ConfigError: The task learns no tokens that a tool could be told of, or some rows are left out, which no tool
            does as wheretune does.
        DataError: The data cannot be read.
    """
    data = load_data(spec)
    task = task_of(data.info)
    if not isinstance(task, Chat | Generation | Text):
        raise ConfigError(
            f"no other tool has words for the task {task.name}",
            "leave the data out, or name a task that it has words for: chat, generation or text",
            "task",
        )
    if any(data.images or ()):
        raise ConfigError(
            f"{spec.source} has images, which no other tool is told of yet",
            "leave the data out; the plan names the layers of the language model alone",
            "images_column",
        )
    if spec.max_samples is not None:
        raise ConfigError("no other tool draws the same rows", "write them to a file of their own", "max_samples")
    if data.info.left_out:
        raise ConfigError(
            f"{data.info.left_out} rows cannot be used, and no other tool skips the same ones",
            "give a file without them",
            "bad_rows",
        )
    return Told(tool, spec, task, read_table(spec), data.texts, folder)
