"""Control tokens that people wrote into a conversation, which must forge no turn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


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
