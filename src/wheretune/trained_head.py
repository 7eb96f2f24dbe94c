"""A checkpoint's own trained classifier is kept where it predicts what the data asks for; otherwise it is said why not.

The plan's head is then of its form, and begins with its weights, the outputs in the order of the data's classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wheretune import catalog, planning
from wheretune.heads.dense import Dense
from wheretune.heads.last_token import LastToken
from wheretune.records.base import Spec
from wheretune.support.log import log
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.heads.base import Head
    from wheretune.heads.top import TopModel
    from wheretune.model.opening import Opened
    from wheretune.model.own_head import OwnHead
    from wheretune.records.data import DataInfo
    from wheretune.records.plan import Plan


def fitted(plan: Plan, opened: Opened, data: DataInfo) -> Plan:
    """The plan with a head of the form of the checkpoint's own, where that is kept; says which it is.

    Args:
        plan: Of a training that starts from the checkpoint.
        opened: The checkpoint.
        data: What is trained on.
    """
    own = opened.own_head
    if own is None:
        return plan
    kept, why = _kept(own, plan, data)
    if kept is None:
        log.warning("the checkpoint's own head (%s) is left out, and a new one is trained: %s", own, why)
        return plan
    log.warning("the checkpoint's own head (%s) is kept and trained on: %s", own, why)
    return plan if Spec.of(kept) == plan.head else _with_head(plan, kept, task_of(data).outputs(data.classes))


def fill(model: TopModel, plan: Plan, opened: Opened, data: DataInfo) -> None:
    """Gives the head of a model the weights of the checkpoint's own, where that is kept."""
    own = opened.own_head
    if own is None or _kept(own, plan, data)[0] is None:
        return
    import torch

    maps = model.maps
    order, _ = _order(own, data)
    with torch.no_grad():
        for part, (weight, bias) in zip(maps, own.maps, strict=True):
            rows = list(order) if part is maps[-1] else slice(None)
            part.weight.copy_(weight[rows])
            if bias is not None:
                part.bias.copy_(bias[rows])


def _kept(own: OwnHead, plan: Plan, data: DataInfo) -> tuple[Head | None, str]:
    """The head of the form of a checkpoint's own, if that is kept, and why it is or is not."""
    order, why = _order(own, data)
    if not order:
        return None, why
    asked = catalog.build("head", plan.head)
    if not isinstance(asked, LastToken | Dense):
        return None, f"the head {asked.name} was asked for"
    if not own.maps:
        return None, "it is not made of one or two linear maps on the token that is read"
    if len(own.maps) == 2:
        return Dense(own.activation, asked.dropout), why  # type: ignore[arg-type]
    if (own.maps[0][1] is None) != plan.model.causal:
        return None, f"it is a linear map with{'out' if own.maps[0][1] is None else ''} a bias, unlike last-token"
    return LastToken(asked.dropout), why


def _order(own: OwnHead, data: DataInfo) -> tuple[tuple[int, ...], str]:
    """By output of the task which output of the checkpoint's head it is, and why; none where they do not agree."""
    task, classes = task_of(data), data.classes
    outputs = task.outputs(classes)
    meant = own.problem_type or ("regression" if len(own.names) == 1 else "single_label_classification")
    if meant != task.problem_type:
        return (), f"it was trained for {meant}, and this is {task.describe(classes)}"
    if len(own.names) != outputs:
        return (), f"this is {task.describe(classes)}"
    if not classes:
        return tuple(range(outputs)), "it predicts a number, too"
    if set(own.names) == set(classes):
        return tuple(map(own.names.index, classes)), "its classes are those of the data"
    numbered = [f"LABEL_{name}" for name in classes]
    if set(own.names) == set(numbered):
        return tuple(map(own.names.index, numbered)), "its classes have no names, and those of the data are numbers"
    return (), f"the classes of the data are {', '.join(classes)}"


def _with_head(plan: Plan, head: Head, outputs: int) -> Plan:
    """The plan with another head, at its cost."""
    before = catalog.build("head", plan.head)
    more = [one.count(plan.model, outputs) for one in (before, head)]
    cost = replace(plan.cost, trainable_parameters=plan.cost.trainable_parameters - more[0] + more[1])
    changed = replace(plan, head=Spec.of(head), cost=cost)
    return replace(changed, cost=planning.cost(changed))
