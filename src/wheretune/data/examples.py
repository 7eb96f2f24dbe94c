"""What a language model reads of a row: with the tokens that it learns to write, or up to those that it is to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NOT_LEARNED = -100  # the label of a token that is no target, as Transformers and PyTorch have it


@dataclass(frozen=True)
class Example:
    """One sequence for a language model.

    Attributes:
        rows: The row of the source that it comes from, from 0; several where texts are packed.
        ids: Its tokens; nothing is padded.
        learned: Whether each token is itself a target; never the first of what is read alone.
        cut: How many tokens were cut away: `len(ids) + cut` is the whole, with `source` where there is one.
        left_out: Why it is not used; None where it is.
        source: What the encoder of an encoder-decoder reads, where `ids` are what its decoder writes; None for others.
        images: The files of the images that stand in it.
    """

    rows: tuple[int, ...]
    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    cut: int = 0
    left_out: str | None = None
    source: tuple[int, ...] | None = None
    images: tuple[str, ...] = ()

    def encoded(self) -> dict[str, Any]:
        """The row of a batch: `input_ids`, `attention_mask`, `labels` (the tokens that are learned), `row`, `images`.

        The last only where there are any: they are opened when the batch is made.
        """
        labels = [token if learned else NOT_LEARNED for token, learned in zip(self.ids, self.learned, strict=True)]
        ids = list(self.ids if self.source is None else self.source)
        images = {"images": self.images} if self.images else {}
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": self.rows[0], **images}


@dataclass(frozen=True)
class Prompt:
    """What a language model reads of a row before it answers.

    Attributes:
        row: The row of the source, from 0.
        ids: Its tokens; nothing is padded.
        lead: What stands between these and an answer, which the model writes itself and is no part of the answer; None
            where blanks around an answer mean nothing.
        cut: How many tokens were cut away.
        left_out: Why it cannot be answered; None where it can.
        images: The files of the images that stand in it.
    """

    row: int
    ids: tuple[int, ...]
    lead: str | None = ""
    cut: int = 0
    left_out: str | None = None
    images: tuple[str, ...] = ()
