"""The chosen layers train at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Static:
    """The chosen layers train from the first step to the last."""

    name: ClassVar[str] = "static"
