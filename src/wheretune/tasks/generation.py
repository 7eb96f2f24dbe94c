"""What follows a source: a target, learned with its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data.cells import Fault, plain, whole_text
from wheretune.data.examples import Example, Prompt
from wheretune.data.shortening import shortened, without
from wheretune.data.spans import Encoder
from wheretune.data.templates import filled, parsed
from wheretune.data.texts import text_faults
from wheretune.errors import ConfigError
from wheretune.model.apart import reads_apart
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
        is a list has several references, and each is learned. An encoder-decoder reads the source with its encoder and
        learns the target with its decoder, each as its tokenizer writes it and each cut to the length; of a template it
        reads what stands before the target, without blanks at the end.

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
    apart: ClassVar[bool] = True

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
        if use == "asked":
            return found
        for place, cell in enumerate(table.column(self.target_column, "target_column")):
            every = targets(cell)
            if not every:
                found.setdefault(place, Fault("no target", "target_column"))
            elif not all(isinstance(one, str | int | float) for one in every):
                found.setdefault(place, Fault("a target that is no text", "target_column"))
            elif not all(whole_text(str(one)) for one in every):
                found.setdefault(place, Fault("half a character (a lone surrogate)", "target_column"))
        return found

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        sources = table.column(self.source_column, "source_column")
        if not table.has(self.target_column):
            return [(str(one),) for one in sources], None
        cells = table.column(self.target_column, "target_column")
        follow = [[str(one) for one in targets(cell) if isinstance(one, str | int | float)] for cell in cells]
        return [(str(one), *filter(whole_text, two)) for one, two in zip(sources, follow, strict=True)], None

    def describe(self, classes: Sequence[str]) -> str:
        return "generation of a target from a source"

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        encoder, parts = Encoder(tokenizer), self.parts
        if reads_apart(tokenizer):
            yield from self._examples_apart(encoder, data, max_length)
            return
        for row, (source, *every) in zip(data.rows, data.texts, strict=True):
            for target in every:
                joined = _Joined.of(encoder, parts, source, target)
                gone = without(joined.cuttable, len(joined.ids) - max_length, self.cut)
                kept = [i for i in range(len(joined.ids)) if i not in gone]
                ids, learned = [joined.ids[i] for i in kept], [joined.learned[i] for i in kept]
                one = shortened((row,), ids, learned, max_length, "end")
                yield Example((row,), one.ids, one.learned, len(joined.ids) - len(one.ids), one.left_out)

    def prompts(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Prompt]:
        encoder, parts = Encoder(tokenizer), self.parts
        if reads_apart(tokenizer):
            for row, (source, *_) in zip(data.rows, data.texts, strict=True):
                read, lost = self._read_apart(encoder, source, max_length)
                yield Prompt(row, read, None, lost, None if read else "its source has no token")
            return
        for row, (source, *_) in zip(data.rows, data.texts, strict=True):
            before = filled(parts, {"source": source, "target": ""}).text
            joined = _Joined.of(encoder, parts, source, encoder.stand_in if before[-1:].isspace() else "")
            size = joined.learned.index(True) if any(joined.learned) else len(joined.ids)
            gone = without(joined.cuttable, size - max_length, self.cut)
            ids = tuple(joined.ids[i] for i in range(size) if i not in gone)
            why = None
            if len(ids) > max_length or not ids:
                why = f"its prompt has {len(ids)} tokens without the source" if ids else "its prompt has no token"
            yield Prompt(row, ids, joined.lead, size - len(ids), why)

    def _examples_apart(self, encoder: Encoder, data: TextData, max_length: int) -> Iterator[Example]:
        """What an encoder-decoder reads and what it learns to write."""
        ending = encoder.ending or (() if encoder.end is None else (encoder.end,))
        for row, (source, *every) in zip(data.rows, data.texts, strict=True):
            read, gone = self._read_apart(encoder, source, max_length)
            for target in every:
                whole = (*encoder.beginning, *encoder(encoder.pieces([(target, True)])).ids)
                ids = (*whole[: max(max_length - len(ending), 0)], *ending)
                cut = gone + len(whole) + len(ending) - len(ids)
                why = None if read and ids else "its source has no token" if ids else "its target has no token"
                yield Example((row,), ids, (True,) * len(ids), cut, why, read)

    def _read_apart(self, encoder: Encoder, source: str, max_length: int) -> tuple[tuple[int, ...], int]:
        """What an encoder reads of a source, cut to a length within the source, and how much was cut."""
        before = self.parts[:-1] if self.template else [("source", True)]
        made = filled(before, {"source": source})
        low, high = made.fields["source"]
        tokens = encoder(encoder.pieces(_without_blanks(made.parts)))
        around = len(encoder.beginning) + len(encoder.ending)
        own = [i for i, (begin, end) in enumerate(tokens.spans) if begin >= low and end <= high]
        gone = without(own, len(tokens.ids) + around - max_length, self.cut)
        kept = [token for i, token in enumerate(tokens.ids) if i not in gone]
        return (*encoder.beginning, *kept, *encoder.ending)[:max_length], len(gone)

    def endings(self, tokenizer: Any) -> frozenset[int]:
        return frozenset(() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))


@dataclass(frozen=True)
class _Joined:
    """A source and a target, tokenised together.

    Attributes:
        ids: The tokens.
        learned: Which of them are the target's, its end included.
        cuttable: The places of those that are the source's alone.
        lead: What of the template stands in the first learned token, before the target.
    """

    ids: list[int]
    learned: list[bool]
    cuttable: list[int]
    lead: str

    @classmethod
    def of(cls, encoder: Encoder, parts: list[tuple[str, bool]], source: str, target: str) -> _Joined:
        """Those that a template joins."""
        made = filled(parts, {"source": source, "target": target})
        start, stop = made.fields["target"]
        tokens = encoder(encoder.pieces(made.parts), made.fields["target"])
        ending = () if encoder.end is None else (encoder.end,)
        first = len(encoder.beginning)
        learned = [False] * first + tokens.touching(start, stop) + [True] * len(ending)
        low, high = made.fields["source"]
        cuttable = [
            i + first
            for i, (begin, end) in enumerate(tokens.spans)
            if begin >= low and end <= high and not learned[i + first]
        ]
        begins = [begin for begin, end in tokens.spans if begin < stop and end > start]
        lead = made.text[begins[0] : start] if begins else ""
        return cls([*encoder.beginning, *tokens.ids, *ending], learned, cuttable, lead)


def _without_blanks(parts: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The parts of a text without the blanks that a template leaves at its end."""
    made = list(parts)
    while made and not made[-1][1] and not made[-1][0].strip():
        made.pop()
    if made and not made[-1][1]:
        made[-1] = (made[-1][0].rstrip(), False)
    return made


def targets(cell: object) -> list[Any]:
    """The references in a cell, without gaps."""
    every = list(cell) if hasattr(cell, "__iter__") and not isinstance(cell, str | dict | bytes) else [cell]
    return [one for one in map(plain, every) if one is not None]
