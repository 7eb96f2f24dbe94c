"""Says when classes are uneven, or lost in a draw of rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wheretune.data.reading import SHOWN
from wheretune.support.log import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wheretune.data.texts import TextData
    from wheretune.metrics.base import Written

UNEVEN = 4.0  # how many times as many rows as the rarest class the most frequent one has, when that is said


def say_classes(data: TextData, written: Sequence[Written]) -> None:
    """Says when the classes are uneven, or when a draw of rows has lost some.

    Args:
        data: The rows that were drawn.
        written: Their labels by name.
    """
    times = Counter(str(name) for one in written for name in (one if isinstance(one, tuple) else [one]))
    source = data.info.spec.source
    lost = [name for name in data.info.classes if not times[name]]
    if lost:
        log.warning(
            "none of the %d rows drawn from %s is of %s, so nothing is learned of it; draw more (max_samples)",
            len(data), source, " or ".join(map(repr, lost[:SHOWN])) + (" and others" if len(lost) > SHOWN else ""),
        )  # fmt: skip
    if not all(isinstance(one, str) for one in written):
        return
    (most, many), (least, few) = times.most_common()[0], times.most_common()[-1]
    if many >= UNEVEN * few:
        log.warning(
            "the classes of %s are uneven: of %d rows %d are %r and %d %r; read macro-f1 beside accuracy",
            source, len(data), many, most, few, least,
        )  # fmt: skip
