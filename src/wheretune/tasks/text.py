"""Raw text, for continued pre-training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from wheretune.data.examples import Example
from wheretune.data.spans import Encoder
from wheretune.data.texts import read_texts, text_faults
from wheretune.errors import DataError
from wheretune.tasks.language import LanguageTask
from wheretune.tasks.learned import last_learned

if TYPE_CHECKING:
    from wheretune.data.cells import Fault
    from wheretune.data.reading import Table
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse


@final
@dataclass(frozen=True)
class Text(LanguageTask):
    """Every token of raw texts, packed: one document after the other, each with its end, in pieces of one length.

    Decided: a document that does not fit goes on in the next piece, so that nothing is lost. A piece begins with the
        tokenizer's beginning token, if it writes one, and has none in its middle. Control tokens in a document are
        read as such, since people prepare texts with them; an end that is already there is not written twice. Since the
        first token of a piece is not learned, no piece begins with an end: the token before goes with it.

    Attributes:
        text_column: The column of the documents.
    """

    text_column: str = "text"
    name: ClassVar[str] = "text"

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        return text_faults(table, {"text_column": self.text_column})

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        return read_texts(table, {"text_column": self.text_column}), None

    def predicted(self, labels: Sequence[int]) -> int:
        """The last token: there is no prompt, and what stands before it has read nearly all of the piece."""
        return last_learned(labels)

    def describe(self, classes: Sequence[str]) -> str:
        return "raw text, packed"

    def examples(self, data: TextData, tokenizer: Any, max_length: int) -> Iterator[Example]:
        encoder = Encoder(tokenizer)
        room = max_length - len(encoder.beginning)
        if room < 1 or max_length < 2:
            raise DataError(f"a length of {max_length} leaves no room to learn anything", "give more", "max_length")
        ids: list[int] = []
        rows: list[int] = []
        for row, (text,) in zip(data.rows, data.texts, strict=True):
            document = self._document(encoder, text)
            for place, token in enumerate(document, 1):
                if len(ids) == room:
                    held = 1 if place == len(document) and len(ids) > 1 and not encoder.beginning else 0
                    yield _piece(encoder, ids[: room - held], rows[: room - held])
                    ids, rows = ids[room - held :], rows[room - held :]
                ids.append(token)
                rows.append(row)
        if ids:
            yield _piece(encoder, ids, rows)

    def _document(self, encoder: Encoder, text: str) -> list[int]:
        ids = list(encoder(encoder.pieces([(text, False)])).ids)
        before = len(encoder.beginning)
        if before and tuple(ids[:before]) == encoder.beginning:
            ids = ids[before:]
        if encoder.end is not None and ids[-1:] != [encoder.end]:
            ids.append(encoder.end)
        return ids


def _piece(encoder: Encoder, ids: Sequence[int], rows: Sequence[int]) -> Example:
    every = (*encoder.beginning, *ids)
    first = max(1, len(encoder.beginning))
    learned = tuple(place >= first for place in range(len(every)))
    alone = None if any(learned) else "one token is left over, and nothing stands before it"
    return Example(tuple(dict.fromkeys(rows)), every, learned, left_out=alone)
