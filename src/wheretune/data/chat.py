"""A conversation -> the text that a chat template writes, and where in it the assistant's turns stand.

A turn is found by its place, never by its words: the conversation is written again with a word in the turn's place that
occurs nowhere, and what stands before and after that word is what stands before and after the turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import Any

from wheretune.data.spans import any_of
from wheretune.support.words import first_line

Messages = list[dict[str, Any]]
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASSISTANTS = ("assistant", "model", "gpt")
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
    """

    place: int
    start: int
    stop: int
    ended: bool


@dataclass(frozen=True)
class Rendered:
    """A conversation as it is read.

    Attributes:
        parts: The text in parts, and whether each is a control token that people wrote.
        learned: Where what is learned begins and ends.
        unended: Whether the last turn is the assistant's, and nothing ends it.
        turns: How many turns of the assistant there are.
    """

    parts: tuple[tuple[str, bool], ...]
    learned: tuple[tuple[int, int], ...]
    unended: bool
    turns: int


class Renderer:
    """A tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        template: In place of its own; None takes its own.
        special: Its control tokens.
        added: All tokens that stand in its vocabulary as they are.
    """

    def __init__(self, tokenizer: Any, template: str | None, special: Sequence[str], added: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._control = any_of(special)
        self._endings = tuple(
            re.compile(f"(?s).*?(?:{any_of(words).pattern})+") for words in (special, added) if any(words)
        )

    def __call__(
        self, messages: Messages, tools: list[Any] | None, given: int = 0, last_alone: bool = False
    ) -> Rendered:
        """The text of a conversation.

        Args:
            messages: Its messages.
            tools: Its tools.
            given: How many of the first messages are not learned.
            last_alone: Learn the last turn of the assistant alone.

        Raises:
            CannotRender: The template refuses it.
        """
        guard = Guard.of(json.dumps([messages, tools], ensure_ascii=False), self._control)
        messages, tools = guard.over(messages), guard.over(tools)
        conversation = Conversation(self._tokenizer, self._template, messages, tools, self._endings)
        places = [place for place, one in enumerate(messages) if place >= given and one["role"] in ASSISTANTS]
        if last_alone:
            places = places[-1:]
        turns = [turn for place in places if (turn := conversation.turn(place)) is not None]
        learned = conversation.learned(turns)
        last = turns[-1] if turns and turns[-1].place == len(messages) - 1 else None
        text, unended = conversation.text, last is not None and not last.ended
        if unended and last is not None and learned and learned[-1][1] >= last.start:
            learned = [*learned[:-1], (learned[-1][0], len(text))]
        parts, shift = guard.lifted(text)
        return Rendered(
            tuple(parts), tuple((shift(start), shift(stop)) for start, stop in learned), unended, len(places)
        )


# --- control tokens that people wrote -------------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    """Two characters that stand around the control tokens in a conversation while it is written.

    Attributes:
        control: What finds control tokens; None where there are none.
        left: The character before one.
        right: The character after one.
    """

    control: re.Pattern[str] | None
    left: str = ""
    right: str = ""

    @classmethod
    def of(cls, said: str, control: re.Pattern[str]) -> Guard:
        """One for what is said in a conversation."""
        if control.search(said) is None:
            return cls(None)
        free = (chr(code) for code in range(0xF0000, 0xFFFFD) if chr(code) not in said)
        return cls(control, next(free), next(free))

    def over(self, value: Any) -> Any:
        """A conversation with its control tokens between the two characters."""
        if self.control is None:
            return value
        if isinstance(value, str):
            return self.control.sub(lambda found: f"{self.left}{found[0]}{self.right}", value)
        if isinstance(value, dict):
            return {self.over(key): self.over(one) for key, one in value.items()}
        return [self.over(one) for one in value] if isinstance(value, list) else value

    def lifted(self, text: str) -> tuple[list[tuple[str, bool]], Any]:
        """A text without the two characters: its parts, and what says where a place of it is then."""
        if self.control is None:
            return [(text, False)], int
        marks = f"{self.left}{self.control.pattern}{self.right}|[{self.left}{self.right}]"
        found = re.split(marks, text)
        parts = [(part, bool(place % 2)) for place, part in enumerate(found) if part]
        gone = [place for place, letter in enumerate(text) if letter in (self.left, self.right)]
        return parts, lambda place: place - sum(one < place for one in gone)


# --- one conversation -----------------------------------------------------------------------------


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
        self._template = tokenizer.get_chat_template(template, tools)
        self._marks: list[tuple[int, int]] | None = None
        if MARKED.search(self._template):
            self.text, self._marks = self._with_marks()
        else:
            self.text = self._write(messages)
        self._word = "Zq"
        while self._word.lower() in (self.text + json.dumps(messages, ensure_ascii=False)).lower():
            self._word += "xj"

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
        return made[0][0], [(start, stop) for start, stop in made[1][0] if start < stop]

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
            plain = self._try(messages) if asked is not None else None
            if asked is not None and plain is not None and asked.startswith(plain) and asked != plain:
                return asked[len(plain) :]
        return ""

    def _around(self, place: int) -> Written | None:
        """What is written around the message at a place; None where the template leaves it out."""
        best: Written | None = None
        for message in _replaced(self._messages[place], self._word):
            text = self._try([*self._messages[:place], message, *self._messages[place + 1 :]])
            if text is None or self._word not in text:
                continue
            before, after = text[: text.index(self._word)], text[text.rindex(self._word) + len(self._word) :]
            start = len(commonprefix((before, self.text)))
            stop = len(self.text) - len(commonprefix((after[::-1], self.text[::-1])))
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
        stop = found.stop + (size or 0)
        return Turn(place, self._beginning(place, found.start), stop, size is not None)

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
            size = len(commonprefix((between[offset:], asking)))
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
        following = {"role": "user", "content": self._word + "k"}
        ends = [upto] if place < len(self._messages) - 1 else [[*upto, following], upto]
        refused = True
        for messages in ends:
            text = self._try(messages)
            if text is None or self._word not in text:
                continue
            after = text.partition(self._word + "k")[0] if messages[-1] is following else text
            if self._word not in after:
                continue
            after = after[after.rindex(self._word) + len(self._word) :]
            size = self._first_end(commonprefix((tail, after[skipped:])))
            if size is not None:
                return size
            refused = False
        if refused and place < len(self._messages) - 1:  # it ends no conversation here
            following_turn = self._around(place + 1)
            return None if following_turn is None else self._first_end(self.text[found.stop : following_turn.start])
        return None

    def _first_end(self, text: str) -> int | None:
        found = (one.match(text) for one in self._endings)
        return next((match.end() for match in found if match is not None), None)

    def learned(self, turns: Sequence[Turn]) -> list[tuple[int, int]]:
        """Where what is learned begins and ends: the turns or, in a template with marks, what it marks of them.

        A mark ends where its turn does.
        """
        if self._marks is None:
            return [(turn.start, turn.stop) for turn in turns]
        before = [0, *(turn.stop for turn in turns)]
        return [span for turn, low in zip(turns, before, strict=False) for span in _marked(turn, self._marks, low)]


def _marked(turn: Turn, marks: Sequence[tuple[int, int]], low: int) -> Iterator[tuple[int, int]]:
    """What is marked of a turn; a mark that begins in an earlier turn, which ends at `low`, begins with this one."""
    within = [(start, stop) for start, stop in marks if start < turn.stop and stop > turn.start]
    for number, (start, stop) in enumerate(within, 1):
        yield start if start >= low else turn.start, turn.stop if number == len(within) else min(stop, turn.stop)


def _replaced(message: Mapping[str, Any], word: str) -> Iterator[dict[str, Any]]:
    """A message with a word in the place of what it says: all of it, or each part of it."""
    role = message["role"]
    rest = {key: one for key, one in message.items() if key not in ("content", "tool_calls", *REASONING)}
    if "tool_calls" not in message or role in ASSISTANTS:
        yield {**rest, "role": role, "content": word}
    calls = [_call(one, word) for one in message.get("tool_calls", ()) if isinstance(one, dict)]
    thoughts = {key: word for key in REASONING if key in message}
    if calls:
        yield {**message, **thoughts, "content": word, "tool_calls": calls}
        said = {"content": message["content"]} if "content" in message else {}
        yield {**rest, **thoughts, **said, "tool_calls": calls}
    elif thoughts:
        yield {**message, **thoughts, "content": word}


def _call(call: dict[str, Any], word: str) -> dict[str, Any]:
    """A call of a tool with a word in the place of its arguments."""
    inner = call["function"] if isinstance(call.get("function"), dict) else call
    arguments = inner.get("arguments")
    made = {**inner, "arguments": {word: word} if isinstance(arguments, dict) else word}
    return {**call, "function": made} if inner is not call else made
