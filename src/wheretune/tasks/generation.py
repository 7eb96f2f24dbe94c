"""What follows a source: a target, learned with its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data.cells import Fault, plain, whole_text
from wheretune.data.examples import Example
from wheretune.data.shortening import shortened, without
from wheretune.data.spans import Encoder
from wheretune.data.templates import filled, parsed
from wheretune.data.texts import text_faults
from wheretune.errors import ConfigError
from wheretune.tasks.language import LanguageTask

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse

PLAIN = "{source}\n{target}"


@final
@dataclass(frozen=True)
class Generation(LanguageTask):
    r"""A text for a text, such as a description for a table; the loss is on the target and its end alone.

    Decided: source and target are joined by a new line. LoRA's E2E is `{source}<|endoftext|> {target}`. A target that
        is a list has several references, and each is learned.

    Attributes:
        source_column: The column of what is given.
        target_column: The column of what is learned: a text, or a list of texts.
        template: How they are joined, with `{source}` and, at its end, `{target}`.
        cut: Where a source that is too long is cut; a target is cut only where no source is left.
    """

    source_column: str = "source"
    target_column: str = "target"
    template: str | None = None
    cut: Literal["end", "start"] = "end"
    name: ClassVar[str] = "generation"

    def __post_init__(self) -> None:
        parts = self.parts
        if parts[-1] != ("target", True):
            raise ConfigError("the template goes on after {target}", "end it with {target}", "template")

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """What joins source and target: its parts, and whether each is the name of a field."""
        template = self.template or PLAIN
        return parsed(
            template if "{target}" in template else template + "{target}", ("source", "target"), ("source", "target")
        )

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        found = text_faults(table, {"source_column": self.source_column})
        for place, cell in enumerate(table.column(self.target_column, "target_column")):
            every = targets(cell)
            if not every:
                found.setdefault(place, Fault("no target", "target_column"))
            elif not all(isinstance(one, str | int | float) for one in every):
                found.setdefault(place, Fault("a target that is no text", "target_column"))
            elif not all(whole_text(str(one)) for one in every):
                found.setdefault(place, Fault("half a character (a lone surrogate)", "target_column"))
        return found

    def texts(self, table: Table) -> tuple[list[tuple[str, ...]], list[str] | None]:
        sources = table.column(self.source_column, "source_column")
        follow = table.column(self.target_column, "target_column")
        return [(str(one), *map(str, targets(two))) for one, two in zip(sources, follow, strict=True)], None

    def describe(self, classes: Sequence[str]) -> str:
        return "generation of a target from a source"

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        encoder, parts = Encoder(tokenizer), self.parts
        ending = () if encoder.end is None else (encoder.end,)
        for row, (source, *every) in zip(data.rows, data.texts, strict=True):
            for target in every:
                made = filled(parts, {"source": source, "target": target})
                start, stop = made.fields["target"]
                tokens = encoder(encoder.pieces(made.parts), made.fields["target"])
                ids = [*encoder.beginning, *tokens.ids, *ending]
                first = len(encoder.beginning)
                learned = [False] * first + tokens.touching(start, stop) + [True] * len(ending)
                low, high = made.fields["source"]
                inside = [
                    i + first
                    for i, (begin, end) in enumerate(tokens.spans)
                    if begin >= low and end <= high and not learned[i + first]
                ]
                gone = without(inside, len(ids) - max_length, self.cut)
                kept = [i for i in range(len(ids)) if i not in gone]
                one = shortened((row,), [ids[i] for i in kept], [learned[i] for i in kept], max_length, "end")
                yield Example((row,), one.ids, one.learned, len(ids) - len(one.ids), one.left_out)


def targets(cell: object) -> list[Any]:
    """The references in a cell, without gaps."""
    every = list(cell) if hasattr(cell, "__iter__") and not isinstance(cell, str | dict | bytes) else [cell]
    return [one for one in map(plain, every) if one is not None]
