"""Where in the text of a conversation the assistant's turns stand.

A turn is found by its place, never by its words: the conversation is written again with a word in the turn's place that
occurs nowhere, and what stands before and after that word is what stands before and after the turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wheretune.support.words import first_line

Messages = list[dict[str, Any]]
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASSISTANTS = ("assistant", "model", "gpt")
TOOLS = ("tool", "function", "ipython", "observation")
REASONING = ("reasoning_content", "reasoning", "thinking")


class CannotRender(ValueError):
    """Why a chat template refuses a conversation."""


@dataclass(frozen=True)
class Turn:
    """What an assistant says, in the text of the whole conversation.

    Attributes:
        place: The place of its message.
        start: Where it begins, behind what the template writes to ask for it.
        stop: Where it ends, the token that ends it included.
        ended: Whether the template writes such a token.
        answers: Where answers of tools begin and end that the template writes inside it.
    """

    place: int
    start: int
    stop: int
    ended: bool
    answers: tuple[tuple[int, int], ...] = ()

    def without_answers(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """A part of the turn, without the answers of tools in it."""
        for first, last in self.answers:
            if start < last and first < stop:
                if start < first:
                    yield start, first
                start = last
        if start < stop:
            yield start, stop


@dataclass(frozen=True)
class Written:
    """A conversation with a word in the place of one turn.

    Attributes:
        message: The message with the word.
        before: What is written before the word.
        after: What is written after it.
        start: Up to where the text begins as `before` does.
        stop: From where it ends as `after` does.
    """

    message: dict[str, Any]
    before: str
    after: str
    start: int
    stop: int

    def missed(self, length: int) -> int:
        """How many characters around the word are not those around the turn, in a text of a length."""
        return len(self.before) - self.start + len(self.after) - (length - self.stop)


class Conversation:
    """One conversation, and its text.

    Args:
        tokenizer: Whose template writes it.
        template: In place of the tokenizer's own.
        messages: Its messages.
        tools: Its tools.
        endings: What finds the tokens that may end a turn; the likelier ones first.

    Raises:
        CannotRender: The template refuses it.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        messages: Messages,
        tools: list[Any] | None,
        endings: Sequence[re.Pattern[str]],
    ) -> None:
        self._tokenizer, self._messages, self._tools, self._endings = tokenizer, messages, tools, endings
        try:
            self._template = tokenizer.get_chat_template(template, tools)
        except ValueError as error:  # several of its own, and none by default
            raise CannotRender(first_line(error)) from error
        self._marks: list[tuple[int, int]] | None = None
        if MARKED.search(self._template):
            self.text, self._marks = self._with_marks()
        else:
            self.text = self._write(messages)
        self._word = "Zq"
        while self._word.lower() in (self.text + json.dumps(messages, ensure_ascii=False)).lower():
            self._word += "xj"

    def _say(self, text: str) -> Any:
        """A content in the form that the messages have."""
        parts = any(isinstance(one.get("content"), list) for one in self._messages)
        return [{"type": "text", "text": text}] if parts else text

    def _write(self, messages: Messages, **more: Any) -> str:
        try:
            written: str = self._tokenizer.apply_chat_template(
                messages, tools=self._tools, chat_template=self._template, tokenize=False, **more
            )
        except Exception as error:  # a template may fail in any way that Python knows
            raise CannotRender(first_line(error)) from error
        return written

    def _with_marks(self) -> tuple[str, list[tuple[int, int]]]:
        """The text, and what the template marks as the assistant's in it."""
        from transformers.utils.chat_template_utils import render_jinja_template

        given: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        try:
            made: Any = render_jinja_template(
                conversations=[self._messages],
                tools=self._tools,
                chat_template=self._template,
                return_assistant_tokens_mask=True,
                **given,
            )
        except Exception as error:
            raise CannotRender(first_line(error)) from error
        return made[0][0], [(start, stop) for start, stop in made[1][0]]

    def asked(self) -> str:
        """The text with what the template writes to ask for a turn of the assistant's.

        Raises:
            CannotRender: The template refuses to ask.
        """
        return self._write(self._messages, add_generation_prompt=True)

    def _try(self, messages: Messages, **more: Any) -> str | None:
        try:
            return self._write(messages, **more)
        except CannotRender:
            return None

    @cached_property
    def _asking(self) -> str:
        """What the template writes to ask for a turn of the assistant's; empty where it asks for none."""
        for messages in (self._messages, self._messages[:-1]):
            asked = self._try(messages, add_generation_prompt=True) if messages else None
            plain = self.text if messages is self._messages else self._try(messages)
            if asked is not None and plain is not None and asked.startswith(plain) and asked != plain:
                return asked[len(plain) :]
        return ""

    def _around(self, place: int) -> Written | None:
        """What is written around the message at a place; None where the template leaves it out."""
        best: Written | None = None
        for message in _replaced(self._messages[place], self._word, self._say(self._word)):
            text = self._try([*self._messages[:place], message, *self._messages[place + 1 :]])
            if text is None or self._word not in text:
                continue
            before, after = text[: text.index(self._word)], text[text.rindex(self._word) + len(self._word) :]
            start = alike(before, self.text)
            stop = len(self.text) - alike(after[::-1], self.text[::-1])
            one = Written(message, before, after, start, max(start, stop))
            if best is None or one.missed(len(self.text)) < best.missed(len(self.text)):
                best = one
            if not best.missed(len(self.text)):
                break
        return best

    def turn(self, place: int) -> Turn | None:
        """The turn of the assistant at a place; None where the template leaves it out."""
        found = self._around(place)
        if found is None:
            return None
        size = self._ending(place, found)
        stop = found.stop + (self._closing(place, found) if size is None else size)
        start = self._beginning(place, found.start)
        return Turn(place, start, stop, size is not None, tuple(self._answers(place, start, stop)))

    def _answers(self, place: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where in a turn the answers of the tools that it calls are written."""
        for later in range(place + 1, len(self._messages)):
            if self._messages[later]["role"] not in TOOLS:
                return
            found = self._around(later)
            if found is not None and start < found.stop and found.start < stop:
                yield found.start, found.stop

    def _closing(self, place: int, found: Written) -> int:
        """How many characters behind a call of a tool belong to it, where no token ends the turn."""
        if "tool_calls" not in found.message:
            return 0
        text = self._try([*self._messages[:place], found.message]) or ""
        tail, after = self.text[found.stop :], text[text.rfind(self._word) + len(self._word) :]
        return len(tail[: alike(tail, after[len(found.after) - len(tail) :])].rstrip())

    def _beginning(self, place: int, start: int) -> int:
        """Where a turn begins whose content begins at `start`: behind what asks for it, reasoning included."""
        asking = self._asking
        if not asking or self.text[:start].endswith(asking):
            return start
        before = self._around(place - 1) if place else None
        low = 0 if before is None else min(before.stop, start)
        if place and before is None:
            return start
        between, best = self.text[low:start], (0, start)
        for offset in range(len(between)):
            size = alike(between[offset:], asking)
            if size >= best[0] and size >= min(3, len(asking)):
                best = (size, low + offset + size)
        return best[1]

    def _ending(self, place: int, found: Written) -> int | None:
        """How many characters behind a content end its turn, the ending token included; None where nothing does.

        What ends a turn is written behind it whether the conversation goes on or not.
        """
        tail = self.text[found.stop :]
        skipped = len(found.after) - len(tail)
        upto = [*self._messages[:place], found.message]
        longer = [*upto, {"role": "user", "content": self._say(self._word + "k")}]
        last, refused = place == len(self._messages) - 1, True
        for messages in (longer, upto) if last else (upto, longer):
            text = self._try(messages)
            if text is None or self._word not in text:
                continue
            text = text.partition(self._word + "k")[0]
            after = text[text.rfind(self._word) + len(self._word) :]
            alone = messages is longer and not last  # what begins the next turn may be there as well
            size = self._first_end(tail[: alike(tail, after[skipped:])], alone)
            if size is not None:
                return size
            if messages is upto and self._first_end(after[skipped:], alone=False) is None:
                return None  # it ends no turn, and what comes next begins the following one
            refused = False
        if refused and (final := self._around(len(self._messages) - 1)) is not None:
            return self._first_end(tail[: alike(tail, self.text[final.stop :])], alone=False)
        return None

    def _first_end(self, text: str, alone: bool) -> int | None:
        """Where the first token that may end a turn ends in a text, or the last of several in a row."""
        found = (one.match(text) for one in self._endings)
        return next((match.end(2 if alone else 0) for match in found if match is not None), None)

    def learned(self, turns: Sequence[Turn]) -> list[tuple[int, int]]:
        """Where what is learned begins and ends: the turns or, in a template with marks, what it marks of them.

        A mark ends where its turn does.
        """
        if self._marks is None:
            return [span for turn in turns for span in turn.without_answers(turn.start, turn.stop)]
        before = [0, *(turn.stop for turn in turns)]
        return [span for turn, low in zip(turns, before, strict=False) for span in _marked(turn, self._marks, low)]


def alike(one: str, two: str) -> int:
    """How many characters two texts begin with that are the same."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _marked(turn: Turn, marks: Sequence[tuple[int, int]], low: int) -> Iterator[tuple[int, int]]:
    """What is marked of a turn; a mark that begins in an earlier turn, which ends at `low`, begins with this one."""
    within = [one for one in marks if one[0] < turn.stop and (one[1] > turn.start or one[0] == turn.start)]
    for number, (start, stop) in enumerate(within, 1):
        end = min(stop, turn.stop) if number < len(within) else turn.stop if turn.ended else max(stop, turn.stop)
        yield from turn.without_answers(start if start >= low else turn.start, end)


def _replaced(message: Mapping[str, Any], word: str, content: Any) -> Iterator[dict[str, Any]]:
    """A message with a word in the place of what it says: all of it, or each part of it."""
    role = message["role"]
    rest = {key: one for key, one in message.items() if key not in ("content", "tool_calls", *REASONING)}
    if "tool_calls" not in message or role in ASSISTANTS:
        yield {**rest, "role": role, "content": content}
    calls = [_call(one, word) for one in message.get("tool_calls", ()) if isinstance(one, dict)]
    thoughts = {key: word for key in REASONING if key in message}
    if calls:
        yield {**message, **thoughts, "content": content, "tool_calls": calls}
        said = {"content": message["content"]} if "content" in message else {}
        yield {**rest, **thoughts, **said, "tool_calls": calls}
    elif thoughts:
        yield {**message, **thoughts, "content": content}


def _call(call: dict[str, Any], word: str) -> dict[str, Any]:
    """A call of a tool with a word in the place of its arguments."""
    inner = call["function"] if isinstance(call.get("function"), dict) else call
    arguments = inner.get("arguments")
    made = {**inner, "arguments": {word: word} if isinstance(arguments, dict) else word}
    return {**call, "function": made} if inner is not call else made
