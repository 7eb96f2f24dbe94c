"""What the tokenizer of an encoder-decoder knows: that source and target are read apart.

Tasks make rows with a tokenizer and no model, so whoever opens both notes it on the tokenizer.
"""

from __future__ import annotations

from typing import Any

MARK = "_wheretune_reads_apart"  # where a tokenizer keeps it; it is not saved with it


def read_apart(tokenizer: Any) -> None:
    """Notes that a tokenizer is an encoder-decoder's.

    Texts are padded on the right: BART counts its positions from the first token, padding or not.
    """
    setattr(tokenizer, MARK, True)
    tokenizer.padding_side = "right"


def reads_apart(tokenizer: Any) -> bool:
    """Whether a tokenizer is an encoder-decoder's."""
    return bool(getattr(tokenizer, MARK, False))
