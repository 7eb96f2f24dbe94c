"""A model and data by name -> what a pass gathers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.scoring.one_pass import gather
from wheretune.scoring.together import gather_together
from wheretune.session import Session
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.scores import Reading
    from wheretune.scoring.gathered import PassState
    from wheretune.scoring.one_pass import Settle
    from wheretune.scoring.resuming import Keep


def pass_over(
    model: ModelSpec,
    data: DataSpec,
    scorers: Sequence[Any],
    reading: Reading,
    *,
    session: Session | None = None,
    settle: Settle | None = None,
    shard: tuple[int, int] = (1, 1),
    keep: Keep | None = None,
) -> PassState:
    """Opens a model and data by name and feeds every scorer; see `scoring.one_pass.gather`.

    Without a shard, several processes share the pass.
    """
    session = session or Session()
    needs = {need for scorer in scorers for need in scorer.card.needs}
    texts = session.to_score(data, needs)
    task = task_of(texts.info)
    speaks = "gradients" in needs and catalog.find("head", task.head).speaks
    opened = session.model(model, language=speaks or "language-model" in needs)
    if shard != (1, 1):
        return gather(opened, texts, scorers, reading, shard=shard, keep=keep)
    return gather_together(opened, texts, scorers, reading, settle, keep)
