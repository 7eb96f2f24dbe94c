"""What several processes share of a training: every batch, and the sum of their gradients.

Each process reads its share of every batch, and its loss is weighted by that share, so that the sum of the gradients is
the gradient of the whole batch in one process: also where shares have different numbers of rows or of learned tokens,
or none. The sum is made here, once per step of the optimizer, of exactly what requires a gradient in that step.
DistributedDataParallel, which settles what it sums when it wraps a model, would sum all that may ever train, and take
the mean over processes, which is another number where their shares differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from wheretune.data.samplers import Shared
from wheretune.errors import TrainingError
from wheretune.model.sharding import is_sharded
from wheretune.support.processes import gathered, part, talking, writes

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.records.data import Batch, Collate

BUCKET = 2**26  # bytes of gradients that are sent at a time


def shared_loader(
    data: torch.utils.data.Dataset[dict[str, Any]], batches: Any, collate: Collate, args: Any, device: torch.device
) -> torch.utils.data.DataLoader[Any]:
    """Loads this process's share of every batch; an empty share is an empty dictionary.

    Args:
        data: All rows.
        batches: The places of the rows of every batch, as one process alone would read them.
        collate: Makes a batch of rows.
        args: Trainer's arguments.
        device: Where batches go.
    """
    from accelerate.data_loader import prepare_data_loader

    def collate_any(rows: list[dict[str, Any]]) -> Batch:
        return collate(rows) if rows else {}

    loader = torch.utils.data.DataLoader(
        data,
        batch_sampler=Shared(batches, *part()),
        collate_fn=collate_any,
        pin_memory=args.dataloader_pin_memory,
        num_workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        persistent_workers=args.dataloader_persistent_workers,
    )
    prepared: torch.utils.data.DataLoader[Any] = prepare_data_loader(
        loader, device, num_processes=1, process_index=0, put_on_device=True
    )
    return prepared


def shares(batches: Sequence[Mapping[str, Tensor]], device: torch.device) -> Iterator[float]:
    """Of some batches, which part of the rows of each this process has; all processes must ask."""
    own = [len(next(iter(batch.values()))) if batch else 0 for batch in batches]
    rows = torch.tensor(own, device=device)
    with talking():
        distributed.all_reduce(rows)
    return iter([mine / every for mine, every in zip(own, rows.tolist(), strict=True)])


def summed(number: Tensor) -> Tensor:
    """The sum of what every process has; all of them must ask."""
    with talking():
        distributed.all_reduce(number)
    return number


def sum_gradients(parameters: Mapping[str, Tensor], loss: Tensor) -> Tensor:
    """Gives every process the sum of the gradients of all, and returns the sum of their losses.

    A parameter that has no gradient anywhere keeps none, so that the optimizer leaves it alone. Of a parameter in
    shards the backward pass has left the mean.

    Args:
        parameters: What the optimizer holds, by name, in the same order in every process.
        loss: This process's part of the loss.

    Raises:
        TrainingError: The processes do not agree on what trains in this step.
    """
    trains = [float(p.requires_grad) for p in parameters.values()]
    there = [float(p.grad is not None) for p in parameters.values()]
    said = torch.tensor([*trains, *there], device=loss.device, dtype=torch.float64)
    total, *counts = summed(torch.cat([loss.detach().double().reshape(1), said])).tolist()
    for name, count in zip(parameters, counts[: len(trains)], strict=True):
        if count not in (0, part()[1]):
            raise TrainingError(
                f"the processes disagree on whether {name} trains in this step",
                "start the run over, and see that nothing freezes parameters in one process alone",
            )
    some = [p for p, count in zip(parameters.values(), counts[len(trains) :], strict=True) if count]
    for parameter in some:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif is_sharded(parameter):
            parameter.grad.mul_(part()[1])
    _sum([p.grad for p in some if p.grad is not None and not is_sharded(p)])
    return loss.new_tensor(total)


def _sum(gradients: Sequence[Tensor]) -> None:
    """Puts the sum over all processes in the place of each gradient."""
    for bucket in _buckets(gradients):
        flat = summed(torch.cat([gradient.reshape(-1) for gradient in bucket]))
        for gradient, values in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
            gradient.copy_(values.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind each, some at a time."""
    for _, alike in groupby(gradients, key=lambda gradient: (gradient.dtype, gradient.device)):
        bucket: list[Tensor] = []
        for gradient in alike:
            if bucket and sum(one.nbytes for one in bucket) + gradient.nbytes > BUCKET:
                yield bucket
                bucket = []
            bucket.append(gradient)
        yield bucket


# --- random generators ----------------------------------------------------------------------------


def part_ways(seed: int) -> None:
    """Lets every process draw numbers of its own: the same dropout in all of them would be less of it."""
    if not writes():
        torch.manual_seed(seed + 1_000_003 * part()[0])


def generators_of_all(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states of every process's generators, the first one's under their own names."""
    every = gathered(dict(own))
    others = [(f"{name}@{number}", state) for number in range(1, len(every)) for name, state in every[number].items()]
    return {**every[0], **dict(others)}


def generators_of_own(kept: Mapping[str, Tensor], seed: int, step: int) -> dict[str, Tensor]:
    """The states that are this process's; where there were fewer processes, those of fresh generators."""
    if writes():
        return {name: state for name, state in kept.items() if "@" not in name}
    own = {name.split("@")[0]: state for name, state in kept.items() if name.endswith(f"@{part()[0]}")}
    return own or {"torch": torch.Generator().manual_seed(seed + 1_000_003 * part()[0] + step).get_state()}
