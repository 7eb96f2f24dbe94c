"""Control tokens that people wrote into a conversation, which must forge no turn."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

ASKED, SAID = "Zq", "Kx"


def around_a_turn(tokenizer: Any, template: str | None, added: Collection[str]) -> list[str]:
    """The added tokens that a template writes before and directly behind what a user says.

    Some tokenizers do not call these special, and whoever wrote one would forge a turn all the same.

    Args:
        tokenizer: Whose template it is.
        template: In place of its own.
        added: The tokens that stand in its vocabulary as they are.
    """
    messages = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception:  # a template may fail in any way that Python knows; then it says nothing of its turns
        return []
    before, asked, after = text.partition(ASKED)
    last = max(added, key=before.rfind, default="")
    behind = [token for token in added if after.lstrip().startswith(token)]
    return [*([last] if asked and last in before else []), *(behind if asked else [])]


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
