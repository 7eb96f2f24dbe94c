"""Save and load only what changed: one safetensors file and a manifest that says of what.

What PEFT trained lies beside them in `adapter/`, as PEFT itself saves it, so that PEFT can open it without wheretune.
A folder is complete when its manifest is there; it is written last and holds the hash of all tensors.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wheretune import catalog
from wheretune.delta.card import write_card
from wheretune.delta.folder import ADAPTER, CARD, MANIFEST, TENSORS, sha256
from wheretune.errors import OutputError, TrainingError
from wheretune.model.sharding import whole, write_tensors
from wheretune.records.base import save
from wheretune.records.runs import Manifest
from wheretune.support.files import write
from wheretune.support.processes import writes
from wheretune.tuners.peft import for_language_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wheretune.applying import Tuned
    from wheretune.records.data import DataInfo


def save_delta(
    tuned: Tuned, folder: str | Path, *, data: DataInfo | None = None, max_length: int | None = None
) -> Path:
    """Writes the tensors that train, and the manifest, into `folder`.

    Of a model in shards all processes must do so, and the first one writes.

    Args:
        tuned: From `apply`, after training.
        folder: Made if it is not there.
        data: The training data, if wheretune read it.
        max_length: Tokens that texts were cut to, if wheretune cut them.

    Raises:
        EngagementError: Training did not do what the plan says.
        TrainingError: A trained tensor is not finite, or one of the base model was not to begin with.
        OutputError: The folder cannot be written, or holds a delta.
    """
    tuned.check()
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        raise OutputError(f"{folder} holds a delta already", "choose another folder, or delete it first")
    _check_finite(tuned)
    save_adapter, elsewhere = tuned.attached.save, set[int]()
    if save_adapter is not None:
        elsewhere = {id(parameter) for parameter in tuned.attached.parameters}
    tensors = {name: value for name, value in tuned.trainable.items() if id(value) not in elsewhere}
    if not writes():
        write_tensors(tensors, None)
        return folder
    if save_adapter is not None:
        speaks = data is not None and catalog.find("head", tuned.plan.head.name).speaks

        def write_adapter(draft: Path) -> None:
            save_adapter(draft, tuned.plan.model)
            if speaks:
                for_language_model(draft, tuned.stack)

        write(folder / ADAPTER, write_adapter)
    write_card(folder, tuned.plan, data)
    write(folder / TENSORS, lambda draft: write_tensors(tensors, draft, {"format": "pt"}))
    save(Manifest(2, tuned.plan, data, max_length, sha256(folder)), folder / MANIFEST)
    return folder


def remove_delta(folder: Path) -> None:
    """Takes a delta out of a folder, the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / TENSORS).unlink(missing_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    if (folder / ADAPTER).is_dir():
        shutil.rmtree(folder / ADAPTER)


def _check_finite(tuned: Tuned) -> None:
    """Refuses weights that are no numbers, and looks whether it was the training that made them so."""

    def broken(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
        return next((name for name, value in tensors if not torch.isfinite(whole(value)).all()), None)

    diverged = broken(tuned.trainable.items())
    if diverged is None:
        return
    given = broken(one for one in tuned.model.named_parameters() if one[0] not in tuned.trainable)
    if given is not None:
        raise TrainingError(f"{given} of the base model is not finite", "check its checkpoint")
    raise TrainingError(f"training diverged: {diverged} is not finite", "lower the learning rate")
