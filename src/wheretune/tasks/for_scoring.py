"""Data to be scored: labels that make no task are left aside where no scorer needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from wheretune.errors import DataError
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse


def to_score(load: Callable[[LabelUse], TextData], needs: Iterable[str]) -> TextData:
    """Data to be scored by scorers with these needs; labels that make no task are left aside if none needs them.

    Args:
        load: Loads the data with such a use of its labels.
        needs: What the scorers need.
    """
    if "labels" in needs:
        return load("required")
    try:
        return load("optional")
    except DataError as error:
        texts = load("ignored")  # says what is wrong if it is not the labels
        log.warning("the labels are left aside: %s", error.problem)
        return texts
