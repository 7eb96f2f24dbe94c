"""Opens what `run` wrote: a tuned model that predicts, and that merges into a plain Transformers checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from wheretune import catalog
from wheretune.data.tokens import encode
from wheretune.delta.saving import MANIFEST, PARTS, put_delta, read_delta
from wheretune.errors import DeltaError
from wheretune.heads.headed import HeadedModel
from wheretune.judging import predict
from wheretune.model.finding import find_layers
from wheretune.model.opening import load_model, load_tokenizer
from wheretune.support.hub import resolve
from wheretune.tasks.base import load_data, task_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.data.texts import TextData
    from wheretune.metrics.base import Predictions
    from wheretune.records.runs import Manifest
    from wheretune.tasks.base import LabelUse
    from wheretune.tuners.base import Attached


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A tuned model that has been opened again: base, delta and tokenizer."""

    model: HeadedModel
    tokenizer: Any
    manifest: Manifest
    attached: Attached

    def logits(self, data: TextData, batch_size: int = 32) -> Float[np.ndarray, "row output"]:
        """The logits of every row."""
        assert self.manifest.max_length is not None
        rows = encode(data, self.tokenizer, self.manifest.max_length)
        return predict(self.model, rows, task_of(data.info).collator(self.tokenizer), batch_size)

    def predictions(self, data: TextData, batch_size: int = 32) -> Predictions:
        """What is predicted of every row; labels need not be there."""
        assert self.manifest.data is not None
        return task_of(self.manifest.data).predict(self.logits(data, batch_size), self.manifest.data.classes)

    def probe(self, model: nn.Module | None = None) -> Float[Tensor, "text output"]:
        """The logits of this model (or of another that should be the same) for a text alone and one padded."""
        texts = [
            "Both must give the same answer.",
            "Also where a shorter text is padded to the length of a longer.",
        ]
        batch = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        with torch.no_grad():
            logits: Tensor = (model or self.model).eval()(**batch).logits
        return logits

    def read(self, source: str, labels: LabelUse) -> TextData:
        """Data with the columns, task and classes of the training data."""
        assert self.manifest.data is not None
        spec = replace(self.manifest.data.spec, source=source, max_samples=None)
        return load_data(spec, like=self.manifest.data, labels=labels)


def open_finetuned(folder: str | Path, model: str | None = None) -> Finetuned:
    """Opens the folder that `wheretune tune` wrote.

    Args:
        folder: The folder, or the name under which `push_to_hub` uploaded it.
        model: Where the base model is now, if it is not where it was; its weights must be the same.

    Raises:
        DeltaError: The folder holds no finished run, or the base weights are others.
    """
    here = local_folder(folder)
    manifest, tensors = read_delta(here)
    if manifest.data is None or manifest.max_length is None:
        raise DeltaError(
            f"{folder} was saved from a model of your own, whose class {MANIFEST} does not know",
            "make that model and call wheretune.load_delta(model, folder)",
        )
    name = model or manifest.plan.model.name
    revision = None if model else manifest.plan.model.revision
    base = load_model(name, revision, manifest.plan.model.quantize)
    task = task_of(manifest.data)
    stack = find_layers(base, manifest.plan.model.layers_attribute)
    head = catalog.build("head", manifest.plan.head)
    headed = HeadedModel(stack, head, task.outputs(manifest.data.classes), task, seed=0)
    attached = put_delta(headed, manifest, tensors, here, catalog.build("tuner", manifest.plan.tuner))
    return Finetuned(headed.eval(), load_tokenizer(name, revision), manifest, attached)


def local_folder(folder: str | Path) -> Path:
    """The folder itself, or what the hub has under that name.

    Raises:
        ModelError: Neither is there.
    """
    path = Path(folder)
    if path.exists() or str(folder).count("/") != 1 or str(folder).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download

    commit = resolve(str(folder)).get("revision")  # says in a few seconds whether the hub has it
    return Path(snapshot_download(str(folder), revision=commit, allow_patterns=list(PARTS)))


def load_delta(model: nn.Module, folder: str | Path) -> Manifest:
    """Puts a saved delta into a model that has the base weights it was made from.

    Args:
        model: The user's own model, of the same class as the one that was tuned.
        folder: From `save_delta`, or the name under which `push_to_hub` uploaded it.

    Raises:
        DeltaError: The base weights are others than those the delta was made from, or a tensor does not fit.
    """
    here = local_folder(folder)
    manifest, tensors = read_delta(here)
    put_delta(model, manifest, tensors, here, catalog.build("tuner", manifest.plan.tuner))
    return manifest
