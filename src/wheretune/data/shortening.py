"""What is cut of an example that is too long: from an end, or from inside where its rest must survive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from wheretune.data.examples import Example

Cut = Literal["end", "start"]


def shortened(
    rows: tuple[int, ...],
    ids: Sequence[int],
    learned: Sequence[bool],
    max_length: int,
    cut: Cut,
    why: str | None = None,
    whole: Sequence[bool] = (),
) -> Example:
    """An example of at most `max_length` tokens; one without a target, or with a part of an image, is left out.

    Args:
        rows: Its rows.
        ids: Its tokens.
        learned: Which are targets, if a model could read them all; the first never is.
        max_length: Tokens it is cut to.
        cut: Where tokens are cut away.
        why: Why it has no target, where that is known.
        whole: Which tokens are of images, of which none may be cut away.
    """
    keep = slice(None, max_length) if cut == "end" else slice(max(0, len(ids) - max_length), None)
    kept, marked = tuple(ids[keep]), (False, *learned[keep][1:])[: len(ids)]
    left_out = None
    if not any(marked):
        left_out = why or (
            f"every target is cut away at {max_length} tokens" if any(learned[1:]) else "nothing to learn"
        )
    elif any(whole) and sum(whole[keep]) < sum(whole):
        left_out = f"its images do not fit into {max_length} tokens"
    return Example(rows, kept, tuple(marked), len(ids) - len(kept), left_out)


def without(places: Sequence[int], count: int, cut: Cut) -> set[int]:
    """`count` of some places, the last ones or the first."""
    if count <= 0:
        return set()
    return set(places[-count:] if cut == "end" else places[:count])
