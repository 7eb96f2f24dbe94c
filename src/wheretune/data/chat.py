"""A conversation -> the text that a chat template writes, and what of it is learned."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wheretune.data.control import Guard
from wheretune.data.spans import any_of
from wheretune.data.turns import ASSISTANTS, CannotRender, Conversation, Messages, Turn


@dataclass(frozen=True)
class Rendered:
    """A conversation as it is read.

    Attributes:
        parts: The text in parts, and whether each is a control token that people wrote.
        learned: Where what is learned begins and ends.
        unended: Whether the last turn is the assistant's, and nothing ends it.
        turns: How many turns of the assistant there are.
        images: Where what stands for each image begins and ends.
    """

    parts: tuple[tuple[str, bool], ...]
    learned: tuple[tuple[int, int], ...]
    unended: bool
    turns: int
    images: tuple[tuple[int, int], ...] = ()


class Renderer:
    """A tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        template: In place of its own; None takes its own.
        special: Its control tokens.
        added: All tokens that stand in its vocabulary as they are.
        image: What stands for an image; None where the model sees none.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        special: Sequence[str],
        added: Sequence[str],
        image: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._image = image
        self._control = any_of(special)
        self._endings = tuple(
            re.compile(f"(?s)(.*?)({any_of(words).pattern}){any_of(words).pattern}*") for words in (special, added)
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
        places = [place for place, one in enumerate(messages) if place >= given and one["role"] in ASSISTANTS]
        if last_alone:
            places = places[-1:]
        conversation, turns = self._found(messages, tools, places)
        learned = conversation.learned(turns)
        last = turns[-1] if turns and turns[-1].place == len(messages) - 1 else None
        text, unended = conversation.text, last is not None and not last.ended
        if unended and last is not None and learned and learned[-1][1] >= last.start:
            learned = [*learned[:-1], (learned[-1][0], len(text))]
        parts, shift = guard.lifted(text)
        return Rendered(
            tuple(parts), tuple((shift(start), shift(stop)) for start, stop in learned), unended, len(places)
        )

    def asking(self, messages: Messages, tools: list[Any] | None) -> tuple[tuple[str, bool], ...] | None:
        """The text, in parts, after which the assistant speaks; None where a template asks for no turn.

        Templates for images write nothing of a content that is no list of parts, so the last message must be there.

        Raises:
            CannotRender: The template refuses the conversation.
        """
        guard = Guard.of(json.dumps([messages, tools], ensure_ascii=False), self._control)
        conversation, _ = self._found(guard.over(messages), guard.over(tools), [len(messages) - 1])
        text = conversation.asked()
        return None if text == conversation.text else tuple(guard.lifted(text)[0])

    def _found(
        self, messages: Messages, tools: list[Any] | None, places: Sequence[int]
    ) -> tuple[Conversation, list[Turn]]:
        """A conversation in the first form that the template can write, and the turns at some places in it."""
        refused: CannotRender | None = None
        silent: tuple[Conversation, list[Turn]] | None = None
        for form in self._forms(messages):
            try:
                conversation = Conversation(self._tokenizer, self._template, form, tools, self._endings)
            except CannotRender as error:
                refused = refused or error
                continue
            turns = [turn for place in places if (turn := conversation.turn(place)) is not None]
            if turns or not places:
                return conversation, turns
            silent = silent or (conversation, turns)
        if silent is None:
            raise refused or CannotRender("it writes nothing")
        return silent

    def _forms(self, messages: Messages) -> list[Messages]:
        """A conversation in the forms that templates take."""
        if any(isinstance(one.get("content"), list) for one in messages):
            return [_in_parts(messages), *([] if self._image is None else [_in_words(messages, self._image)])]
        full = _with_contents(messages)
        return [messages, *([] if full is None else [full]), _in_parts(messages)]


def _with_contents(messages: Messages) -> Messages | None:
    """Messages with an empty content where there is none, which some templates cannot do without."""
    if all("content" in one for one in messages):
        return None
    return [{"content": "", **one} for one in messages]


def _in_parts(messages: Messages) -> Messages:
    """Messages whose contents are lists of parts, as templates for images as well want them."""
    contents = (one.get("content", "") for one in messages)
    parts = [said if isinstance(said, list) else [{"type": "text", "text": said}] for said in contents]
    return [{**one, "content": said} for one, said in zip(messages, parts, strict=True)]


def _in_words(messages: Messages, image: str) -> Messages:
    """Messages whose contents are texts, with a word where an image stands."""
    contents = (one.get("content", "") for one in messages)
    texts = ["".join(p.get("text", image) for p in said) if isinstance(said, list) else said for said in contents]
    return [{**one, "content": said} for one, said in zip(messages, texts, strict=True)]
