"""One device for a training: that of the model.

Trainer, alone in its process, takes the first GPU whatever the model lies on, and moves the model there; accelerate, on
which it is built, takes the current GPU, or what the variable ACCELERATE_TORCH_DEVICE says, and puts batches there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.state import AcceleratorState, PartialState

from wheretune.model.placement import current
from wheretune.support.processes import world_size

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

NAMED = "ACCELERATE_TORCH_DEVICE"


@contextmanager
def one_device(device: torch.device) -> Iterator[None]:
    """Inside, accelerate takes this device, and it is torch's current one of its kind; then all is as it was before.

    Several processes have each its own device already, and keep what they share.
    """
    if world_size() > 1:
        yield
        return
    kept = [(state, dict(state)) for state in (PartialState._shared_state, AcceleratorState._shared_state)]
    named = os.environ.get(NAMED)
    os.environ[NAMED] = str(device)
    try:
        with current(device):
            yield
    finally:
        os.environ.pop(NAMED)
        if named is not None:
            os.environ[NAMED] = named
        for state, content in kept:
            state.clear()
            state.update(content)


def pin(arguments: TrainingArguments, device: torch.device) -> None:
    """Has Trainer take this device, where it is alone, and no replicas on others (DataParallel)."""
    arguments._n_gpu = min(arguments.n_gpu, 1)  # replicas would run the hooks of the first
    if world_size() == 1:
        vars(arguments)["_setup_devices"] = device  # what `device` reads, kept there by functools.cached_property
