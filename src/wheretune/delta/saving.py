"""Save and load only what changed: one safetensors file and a manifest that says of what.

What PEFT trained lies beside them in `adapter/`, as PEFT itself saves it, so that PEFT can open it without wheretune.
A folder is complete when its manifest is there; it is written last and holds the hash of all tensors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from wheretune.delta.card import model_card
from wheretune.errors import DeltaError, OutputError, TrainingError
from wheretune.model.finding import find_layers
from wheretune.model.identity import base_hash
from wheretune.records.base import from_json, save
from wheretune.records.runs import Manifest
from wheretune.support.files import write, write_text
from wheretune.tuners.peft import attach_saved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.applying import Tuned
    from wheretune.records.data import DataInfo
    from wheretune.tuners.base import Attached, Tuner

TENSORS, ADAPTER, CARD, MANIFEST = "delta.safetensors", "adapter", "README.md", "wheretune.json"
PARTS = (TENSORS, f"{ADAPTER}/*", CARD, MANIFEST)
FORMAT = 1


def save_delta(
    tuned: Tuned, folder: str | Path, *, data: DataInfo | None = None, max_length: int | None = None
) -> Path:
    """Writes the tensors that train, and the manifest, into `folder`.

    Args:
        tuned: From `apply`, after training.
        folder: Made if it is not there.
        data: The training data, if wheretune read it.
        max_length: Tokens that texts were cut to, if wheretune cut them.

    Raises:
        EngagementError: Training did not do what the plan says.
        TrainingError: A trained tensor is not finite.
        OutputError: The folder cannot be written, or holds a delta.
    """
    tuned.check()
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        raise OutputError(f"{folder} holds a delta already", "choose another folder, or delete it first")
    broken = [name for name, value in tuned.trainable.items() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(f"training diverged: {broken[0]} is not finite", "lower the learning rate")
    save_adapter, elsewhere = tuned.attached.save, set[int]()
    if save_adapter is not None:
        elsewhere = {id(parameter) for parameter in tuned.attached.parameters}
        write(folder / ADAPTER, lambda draft: save_adapter(draft, tuned.plan.model))
    write_text(folder / CARD, model_card(tuned.plan, data))
    here = {name: value for name, value in tuned.trainable.items() if id(value) not in elsewhere}
    tensors = {name: value.detach().cpu().contiguous() for name, value in here.items()}
    write(folder / TENSORS, lambda draft: save_file(tensors, draft, {"format": "pt"}))
    save(Manifest(FORMAT, tuned.plan, data, max_length, _sha256(folder)), folder / MANIFEST)
    return folder


def remove_delta(folder: Path) -> None:
    """Takes a delta out of a folder, the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / TENSORS).unlink(missing_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    if (folder / ADAPTER).is_dir():
        shutil.rmtree(folder / ADAPTER)


def _sha256(folder: Path) -> str:
    """Of the delta's tensors and, where there is one, of the adapter's files."""
    found = hashlib.sha256((folder / TENSORS).read_bytes())
    for path in sorted((folder / ADAPTER).glob("*")):
        found.update(path.read_bytes())
    return found.hexdigest()


def read_delta(folder: str | Path) -> tuple[Manifest, dict[str, Tensor]]:
    """The manifest and the tensors of a saved delta.

    Raises:
        DeltaError: The folder holds no finished delta, or its tensors are not those the manifest names.
    """
    folder = Path(folder)
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeltaError(
            f"{folder} holds no finished delta (no readable {MANIFEST})",
            "give the --output folder of a finished wheretune tune",
        ) from error
    if written != FORMAT:
        raise DeltaError(f"{folder} has the format {written}", f"use the wheretune that wrote it (we read {FORMAT})")
    manifest = from_json(Manifest, content, str(folder / MANIFEST))
    path = folder / TENSORS
    if not path.is_file() or _sha256(folder) != manifest.sha256:
        raise DeltaError(f"{path} is missing or was changed after it was saved", "tune again, or restore the file")
    return manifest, load_file(path)


def put_delta(model: nn.Module, manifest: Manifest, tensors: dict[str, Tensor], folder: Path, tuner: Tuner) -> Attached:
    """Puts a saved delta into a model that has the base weights it was made from.

    Args:
        model: The user's own model, of the same class as the one that was tuned.
        manifest: From `read_delta`.
        tensors: Likewise.
        folder: Where they were read.
        tuner: The plan's.

    Returns:
        What the tuner put into the model.

    Raises:
        DeltaError: The base weights are others than those the delta was made from, or a tensor does not fit.
    """
    base = manifest.plan.model
    stack = find_layers(model, base.layers_attribute)
    found = base_hash(stack)
    if found != base.hash:
        raise DeltaError(
            f"the base model's weights ({found[:12]}) are not those that {folder} was made from ({base.hash[:12]})",
            f"use {base.name}" + (f" at revision {base.revision}" if base.revision else "") + " unchanged",
        )
    saved = folder / ADAPTER
    attached = attach_saved(stack, saved) if saved.is_dir() else tuner.attach(stack, manifest.plan.layers, seed=0)
    own = dict(model.named_parameters())
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            attached.detach()
            raise DeltaError(
                f"the model has no parameter {name} of shape {tuple(value.shape)}",
                "make the model as it was made for training (same class, same number of labels)",
            )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
    return attached
