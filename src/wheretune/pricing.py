"""What a plan costs on some texts, without its model's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheretune import planning
from wheretune.data.tokens import mean_learned, mean_length
from wheretune.model.apart import read_apart
from wheretune.model.identity import check_layers
from wheretune.model.inputs import max_tokens
from wheretune.model.opening import load_tokenizer, outline
from wheretune.session import Session
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.records.cost import Cost
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.plan import Plan


def cost(
    plan: Plan,
    data: DataSpec,
    model: ModelSpec | None = None,
    *,
    epochs: int,
    batch_size: int,
    session: Session | None = None,
) -> Cost:
    """What a plan costs on some texts, from the model's shapes and the texts' tokens; opens no weights.

    Args:
        plan: The plan.
        data: The texts; their labels are not looked at.
        model: Where the plan's model is now, if not where it was.
        epochs: Passes over the texts.
        batch_size: Texts in a batch.
        session: What is open already.

    Raises:
        ConfigError: There is no epoch or nothing in a batch.
        DataError: The texts cannot be read.
        ModelError: The model or its tokenizer cannot be opened.
        PlanError: The plan was made for a model of other layers.
    """
    texts = (session or Session()).data(data, labels="ignored")
    stack, info = outline(model or plan.model.spec)
    check_layers(info, plan)
    tokenizer = load_tokenizer(info.name, info.spec.revision)
    if stack.split:
        read_apart(tokenizer)
    rows = task_of(texts.info).encode(texts, tokenizer, max_tokens(stack.base, tokenizer, data.max_length))
    return planning.cost(
        plan,
        tokens=mean_length(rows),
        learned=mean_learned(rows),
        texts=len(rows),
        epochs=epochs,
        batch_size=batch_size,
    )
