"""Templates with fields, such as `Sentence: {text}` and a new line with `Label:`: read once, checked, and filled in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from wheretune.errors import ConfigError

FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Filled:
    """A text that a template made.

    Attributes:
        parts: Its parts, and whether each is from a row (and not the template's own).
        fields: By field, where its text begins and ends.
    """

    parts: tuple[tuple[str, bool], ...]
    fields: Mapping[str, tuple[int, int]]

    @property
    def text(self) -> str:
        """The whole."""
        return "".join(part for part, _ in self.parts)


def parsed(template: str, known: Collection[str], needed: Collection[str]) -> list[tuple[str, bool]]:
    r"""The parts of a template, and whether each is the name of a field; `\n` written out is a new line.

    Raises:
        ConfigError: It has a field that is not known, or one twice, or lacks one that is needed.
    """
    found = FIELD.split(template.replace("\\n", "\n").replace("\\t", "\t"))
    fields = found[1::2]
    if unknown := [name for name in fields if name not in known]:
        raise ConfigError(
            f"the template has a field {{{unknown[0]}}}, which is not known",
            f"use {', '.join(f'{{{name}}}' for name in known)}",
            "template",
        )
    if missing := [name for name in needed if name not in fields]:
        raise ConfigError(f"the template lacks {{{missing[0]}}}", f"put {{{missing[0]}}} where it belongs", "template")
    if len(set(fields)) < len(fields):
        raise ConfigError("the template has a field twice", "name each field once", "template")
    return [(part, bool(place % 2)) for place, part in enumerate(found) if part]


def filled(parts: Collection[tuple[str, bool]], values: Mapping[str, str]) -> Filled:
    """A template with the texts of a row in its fields."""
    made: list[tuple[str, bool]] = []
    fields: dict[str, tuple[int, int]] = {}
    length = 0
    for part, is_field in parts:
        text = values[part] if is_field else part
        made.append((text, is_field))
        if is_field:
            fields[part] = (length, length + len(text))
        length += len(text)
    return Filled(tuple(made), fields)
