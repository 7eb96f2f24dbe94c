"""Exact match: whether an output is one of its references, or states the number that a reference states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

MARK = "####"  # what GSM8K's worked answers write before their number
NUMBER = re.compile(r"(?<![0-9.])[-−]?\$?((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
AFTER_MARK = re.compile(rf"{MARK}[^\n0-9.−-]*({NUMBER.pattern})")
ALL_NUMBER = re.compile(rf"\s*({NUMBER.pattern})\.?\s*")


@dataclass(frozen=True)
class ExactMatch:
    """The share of outputs that are a reference, or that state its number where the reference is an answer of GSM8K's.

    Decided:
    - A reference speaks of a number where it has `####` or is nothing but a number. The output's number is then the one
      that stands after its first `####`, or else its last; the two must have the same value, commas, `$` and the dot
      of a sentence left out: `$1,200.00` is 1200. An output without a number is wrong.
    - Any other reference must be the output itself, but for spaces at either end.
    - An empty output is wrong.

    Attributes:
        of: `number` or `text` holds every reference to the one rule; `auto` decides for each.
    """

    name: ClassVar[str] = "exact-match"
    reads: ClassVar[str] = "text"
    higher_is_better: ClassVar[bool] = True

    of: Literal["auto", "number", "text"] = "auto"

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        outputs = predictions.kinds["text"].tolist()
        right = [
            any(self.matches(output, reference) for reference in references)
            for output, references in zip(outputs, truth.tolist(), strict=True)
        ]
        return sum(right) / len(right)

    def matches(self, output: str, reference: str) -> bool:
        """Whether an output is right by one reference."""
        if self.of == "text" or (self.of == "auto" and MARK not in reference and not ALL_NUMBER.fullmatch(reference)):
            return bool(output.strip()) and output.strip() == reference.strip()
        stated = number_of(output)
        return stated is not None and stated == number_of(reference)


def number_of(text: str) -> Decimal | None:
    """The number that a text states: after the first `####` that one follows, or else the last; None without any."""
    marked = AFTER_MARK.search(text)
    found = marked[1] if marked else next((match[0] for match in reversed(list(NUMBER.finditer(text)))), None)
    return None if found is None else Decimal(found.replace(",", "").replace("$", "").replace("−", "-"))
