"""Text -> tokens, each with the characters that it covers; control tokens that people wrote are words.

What a template writes and what people wrote stand in one text and are tokenised as one. Only where people wrote a
control token of this tokenizer (`<|im_end|>`) is the text cut, and the token is read as the characters that it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from string import ascii_letters
from typing import Any

NEWLINE = "\n"  # what a piece from the middle of a text is read after, so that no tokenizer takes it for a beginning
WORDS = ("A", "The", "the", "a", "I", "yes")  # with which answers may begin
BLANKS = "Ġ▁"  # what a blank is in the tokens of byte-level and SentencePiece vocabularies


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: Its characters.
        plain: Whether its control tokens are words.
    """

    text: str
    plain: bool = False


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text.

    Attributes:
        ids: The tokens.
        spans: Where the characters that each covers begin and end in the text.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def touching(self, start: int, stop: int) -> list[bool]:
        """Whether each token covers one of the characters from `start` to `stop`."""
        return [first < stop and last > start for first, last in self.spans]


class Encoder:
    """A tokenizer that says which characters each token covers.

    Args:
        tokenizer: Any of Transformers'. One that tells no places reads what lies between two `cuts` by itself.
        further: Control tokens that it does not call special.
    """

    def __init__(self, tokenizer: Any, further: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        self.added = added_tokens(tokenizer)
        self.special = [*added_tokens(tokenizer, special=True), *further]
        self.control = any_of(self.special)
        self._newline = tokenizer(NEWLINE, add_special_tokens=False)["input_ids"]
        whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        self.beginning: tuple[int, ...] = ()  # what the tokenizer writes before every text
        self.ending: tuple[int, ...] = ()  # and behind it
        for place in range(len(whole) - len(bare) + 1):
            if whole[place : place + len(bare)] == bare:
                self.beginning, self.ending = tuple(whole[:place]), tuple(whole[place + len(bare) :])
                break
        self.end: int | None = tokenizer.eos_token_id

    @cached_property
    def stand_in(self) -> str:
        """What can stand where an answer will: a word that shares a token with a blank before it, if any does."""
        words: tuple[str, ...] = (*WORDS, *ascii_letters)
        for word in words:
            if any(first < 2 < last for first, last in self([Piece(f"1 {word}")], (2,)).spans):
                return word
        return WORDS[0]

    def before(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The tokens that stand before an answer to a text: a blank at its end may be of the answer's first token.

        Args:
            parts: As for `pieces`.
        """
        start = sum(len(text) for text, _ in parts)
        if not "".join(text for text, _ in parts)[-1:].isspace():
            return list(self(self.pieces(parts)).ids)
        tokens = self(self.pieces([*parts, (self.stand_in, False)]), (start,))
        own = tokens.touching(start, start + len(self.stand_in))
        return list(tokens.ids[: [*own, True].index(True)])

    def pieces(self, parts: Iterable[tuple[str, bool]]) -> list[Piece]:
        """A text as few pieces as it takes.

        Args:
            parts: Its parts, and whether people wrote each (so that its control tokens are words).
        """
        made: list[Piece] = []
        for text, written in parts:
            found = self.control.split(text) if written else [text]
            for place, part in enumerate(found):
                if place % 2 or not made or made[-1].plain:
                    made.append(Piece(part, plain=bool(place % 2)))
                else:
                    made[-1] = Piece(made[-1].text + part)
        return [piece for piece in made if piece.text]

    def __call__(self, pieces: Sequence[Piece], cuts: Iterable[int] = ()) -> Tokens:
        """The tokens of a text.

        Args:
            pieces: Its pieces.
            cuts: Where something learned begins or ends.
        """
        if not self._tokenizer.is_fast:
            pieces = _cut(pieces, sorted(set(cuts)))
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        start = 0
        for piece in pieces:
            found = self._plain(piece.text, start) if piece.plain else self._read(piece.text, start, plain=False)
            ids += [token for token, _ in found]
            spans += [span for _, span in found]
            start += len(piece.text)
        return Tokens(tuple(ids), tuple(spans))

    def _plain(self, text: str, start: int) -> list[tuple[int, tuple[int, int]]]:
        """A control token as words; one that the vocabulary has as a word as well is read letter by letter."""
        forged = self._tokenizer.convert_tokens_to_ids(text)
        found = self._read(text, start, plain=True)
        if all(token != forged for token, _ in found) or len(text) < 2:
            return found
        return [one for place, letter in enumerate(text) for one in self._read(letter, start + place, plain=True)]

    def _read(self, text: str, start: int, *, plain: bool) -> list[tuple[int, tuple[int, int]]]:
        """The tokens of one piece, with what each covers in the text that the piece begins in at `start`."""
        places = bool(self._tokenizer.is_fast)
        before = NEWLINE if start else ""
        given: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False}
        if plain:
            given["split_special_tokens"] = True
        made = self._tokenizer(before + text, return_offsets_mapping=places, **given)
        known = len(self._newline) if before else 0
        if made["input_ids"][:known] != (self._newline if before else []):
            before, known = "", 0
            made = self._tokenizer(text, return_offsets_mapping=places, **given)
        ids = made["input_ids"][known:]
        if not places:
            return [(token, (start, start + len(text))) for token in ids]
        shift = start - len(before)
        spans, reach = [], start
        for token, (first, last) in zip(ids, made["offset_mapping"][known:], strict=True):
            first, last = max(first + shift, start), max(last + shift, start)
            if first > reach and (first == last or self._has_lost_a_blank(token, text[first - start])):
                first = reach
            reach = max(reach, last)
            spans.append((first, last))
        return list(zip(ids, spans, strict=True))

    def _has_lost_a_blank(self, token: int, first: str) -> bool:
        """Whether a token begins with a blank that its place leaves out, as post-processors trim it."""
        word: str = self._tokenizer.convert_ids_to_tokens(token)
        return word[:1] in BLANKS and bool(word) and first != " "


def added_tokens(tokenizer: Any, *, special: bool = False) -> list[str]:
    """The tokens that stand in a vocabulary as they are, or those of them that it calls special."""
    every = tokenizer.added_tokens_decoder.values()
    return [token.content for token in every if token.content.strip() and (token.special or not special)]


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """What finds any of some words, the longest first, in one group."""
    return re.compile("(" + ("|".join(map(re.escape, sorted(set(words), key=len, reverse=True))) or "(?!)") + ")")


def _cut(pieces: Sequence[Piece], cuts: Sequence[int]) -> list[Piece]:
    made, start = [], 0
    for piece in pieces:
        edges = [0, *(cut - start for cut in cuts if start < cut < start + len(piece.text)), len(piece.text)]
        made += [Piece(piece.text[low:high], piece.plain) for low, high in pairwise(edges)]
        start += len(piece.text)
    return made
