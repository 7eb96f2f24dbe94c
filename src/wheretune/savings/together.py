"""All that a training need not compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.data.batches import spread
from wheretune.heads.headed import HeadedModel
from wheretune.records.runs import CacheSettings, check_cache
from wheretune.savings.one_token import one_token
from wheretune.savings.packing import packing
from wheretune.savings.prefix_cache.making import cached

if TYPE_CHECKING:
    from wheretune.applying import Tuned
    from wheretune.records.data import Collate
    from wheretune.records.runs import TrainSettings
    from wheretune.savings.prefix_cache.deciding import CacheReport


@dataclass(frozen=True)
class Saved:
    """What a training does not compute.

    Attributes:
        cache: What was decided about the prefix cache.
        one_token: Whether the last layer computes only the token that is read.
    """

    cache: CacheReport
    one_token: bool

    @property
    def told(self) -> dict[str, str]:
        """For a result."""
        last = "the token that is read alone" if self.one_token else "all tokens"
        return {"prefix cache": str(self.cache), "last layer": last}


@contextlib.contextmanager
def lean(
    tuned: Tuned,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path,
    cache: CacheSettings | None = None,
) -> Iterator[Saved]:
    """Inside, training computes only what it needs: the frozen prefix once, and of the last layer what the head reads.

    Args:
        tuned: From `apply`, of a `HeadedModel`.
        rows: Encoded rows.
        collate: Makes a batch of rows.
        settings: How they are trained on.
        folder: The run's own.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.

    Yields:
        What is left out.

    Raises:
        ConfigError: The settings ask for packed texts, and the model would read across them.
        ModelError: They do, and it takes no positions.
    """
    model = tuned.model
    assert isinstance(model, HeadedModel)
    how = replace(cache or CacheSettings(), dtype=settings.cache_dtype)
    check_cache(settings, how)
    if settings.frozen_dropout:
        how = CacheSettings("off")
    some = collate(spread(rows))
    with contextlib.ExitStack() as inside:
        if settings.packed:
            inside.enter_context(packing(model, some))
        every = settings.all_tokens or settings.packed  # one residual a text does not fit a row of all texts
        cut = not every and inside.enter_context(one_token(tuned.stack, some))
        known = tuned.plan.model.hash
        prefix = cached(tuned.stack, known, rows, collate, settings.epochs, how, folder, model.all_layers)
        report = inside.enter_context(prefix)
        yield Saved(report, cut)
