"""One pass over the data, shared by the processes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wheretune.errors import DataError
from wheretune.scoring.gathered import PassState, merge
from wheretune.scoring.one_pass import gather
from wheretune.scoring.shards import packed, unpacked
from wheretune.support.processes import gathered, part
from wheretune.tasks.streaming import StreamedTexts

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.records.scores import Reading
    from wheretune.scorers.base import Scorer
    from wheretune.scoring.one_pass import Settle
    from wheretune.scoring.resuming import Keep


def gather_together(
    opened: Opened,
    data: TextData | StreamedTexts,
    scorers: Sequence[Scorer],
    reading: Reading,
    settle: Settle | None = None,
    keep: Keep | None = None,
) -> PassState:
    """As `gather`, in every process: each reads a shard, and all merge them.

    What has to see all data in one order (a choice that may be settled early, standardised states, a stream) each reads
    for itself. Each keeps what it has gathered in a file of its own, so what goes on must be as many processes.

    Raises:
        WheretuneError: As for `gather`.
    """
    number, size = part()
    if size == 1 or settle is not None or reading.standardise or isinstance(data, StreamedTexts):
        return gather(opened, data, scorers, reading, settle=settle, keep=keep)
    own, empty = None, None
    try:
        own = packed(gather(opened, data, scorers, reading, shard=(number + 1, size), keep=keep))
    except DataError as error:
        if error.field != "shard":
            raise
        empty = error  # there are more processes than batches
    parts = [one for one in gathered(own) if one is not None]
    if not parts and empty is not None:
        raise empty
    shards = [unpacked(content, tensors, "a shard", scorers) for content, tensors in parts]
    numbered = [replace(shard, shard=(place + 1, len(shards))) for place, shard in enumerate(shards)]
    return replace(merge(numbered), seconds=max(shard.seconds for shard in shards))
