"""Opens what was tuned: a saved delta on its base model, which then predicts, or in a user's own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file

from wheretune import catalog
from wheretune.delta.folder import ADAPTER, MANIFEST, TENSORS, base_spec, local_folder, read_manifest
from wheretune.delta.reading import read_like, trained_on
from wheretune.errors import ConfigError, DeltaError
from wheretune.judging import by_text, predict
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.model.inputs import representative_positions
from wheretune.model.opening import open_model
from wheretune.model.placement import hold_masters
from wheretune.model.two_stacks import written_before
from wheretune.records import older
from wheretune.records.base import Spec, from_json, looks, to_json
from wheretune.records.runs import Manifest
from wheretune.tasks.base import task_of
from wheretune.tuners.peft import attach_saved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.data.texts import TextData
    from wheretune.heads.base import Head
    from wheretune.heads.top import TopModel
    from wheretune.metrics.base import Predictions
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo, ModelSpec
    from wheretune.tasks.base import LabelUse
    from wheretune.tuners.base import Attached

# --- what lies in a folder -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SavedDelta:
    """A delta as it lies in a folder, seen to be whole.

    Attributes:
        folder: Where it lies.
        content: Its manifest as JSON. Format 1 names the chosen layers alone, so that it becomes a `Manifest` only with
            the base model at hand.
        tensors: What lies in its file of tensors, by name.
    """

    folder: Path
    content: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def model(self) -> ModelSpec:
        """How its base model was opened."""
        return base_spec(self.content, self.folder)

    @property
    def head(self) -> Spec:
        """What sits on top."""
        return from_json(Spec, self.content["plan"]["head"], str(self.folder / MANIFEST))

    def manifest(self, info: ModelInfo) -> Manifest:
        """Its manifest.

        Args:
            info: The model it is to be put into.

        Raises:
            ConfigError: It is damaged.
            DeltaError: The model's weights are others than those the delta was made from.
        """
        made_from = self.content["plan"]["model"]["hash"]
        if info.hash != made_from:
            at = f" at revision {self.model.revision}" if self.model.revision else ""
            raise DeltaError(
                f"the base model's weights ({info.hash[:12]}) are not those that {self.folder} was made from "
                f"({made_from[:12]})",
                f"use {self.model.name}{at} unchanged",
            )
        origin = str(self.folder / MANIFEST)
        if self.content["format"] == 1:
            return from_json(Manifest, older.manifest(self.content, to_json(info)["layers"], origin), origin)
        return from_json(Manifest, self.content, origin)


def read_delta(folder: str | Path) -> SavedDelta:
    """Reads a saved delta.

    Raises:
        ConfigError: The manifest is damaged.
        DeltaError: The folder holds no finished delta, or its tensors are not those the manifest names.
    """
    folder = Path(folder)
    return SavedDelta(folder, read_manifest(folder), load_file(folder / TENSORS))


# --- on its base model ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A tuned model that has been opened again.

    Attributes:
        model: The base model with the delta and the head.
        tokenizer: The base model's.
        manifest: What the delta is of.
        data: The training data's task, classes and columns.
        max_length: Tokens that texts are cut to.
        attached: What the tuner put into the model.
        let_masters_go: Rounds what was trained of a half-precision base model, and is held in fp32, to its precision.
        spec: How its base model was opened.
    """

    model: TopModel
    tokenizer: Any
    manifest: Manifest
    data: DataInfo
    max_length: int
    attached: Attached
    let_masters_go: Callable[[], None]
    spec: ModelSpec

    def _repr_html_(self) -> str:
        learned = task_of(self.data).describe(self.data.classes)
        return str(looks("html", self.manifest.plan, f"tuned on {self.data.rows} rows: {learned}"))

    def logits(self, data: TextData, batch_size: int = 32) -> Float[np.ndarray, "row output"]:
        """The logits of every row; of a language model the numbers that its task reads, of rows that teach any."""
        return self.answered(data, batch_size)[0]

    def answered(
        self, data: TextData, batch_size: int = 32, model: nn.Module | None = None
    ) -> tuple[Float[np.ndarray, "row output"], TextData]:
        """The logits of the rows that can be read, and these rows; of another model that is called so, where given."""
        task = task_of(data.info)
        if not data.info.classes:  # without labels the classes are still those of the training data
            data = replace(data, info=replace(data.info, classes=self.data.classes))
        if not self.model.several:
            data = replace(data, labels=None)  # they may be of classes that the head has not
        rows = task.encode(data, self.tokenizer, self.max_length)
        found = predict(model or self.model, rows, task.collator(self.tokenizer), batch_size)
        return by_text(found, rows, data)

    def predictions(self, data: TextData, batch_size: int = 32) -> Predictions:
        """What is predicted of every row; labels need not be there."""
        return task_of(self.data).predict(self.logits(data, batch_size), self.data.classes)

    def probe(self, model: nn.Module | None = None) -> Float[Tensor, "text output"]:
        """The logits of this model (or of another that should be the same) for a text alone and one padded."""
        texts = [
            "Both must give the same answer.",
            "Also where a shorter text is padded to the length of a longer.",
        ]
        used = model or self.model
        device = next(used.parameters()).device
        batch = dict(self.tokenizer(texts, padding=True, return_tensors="pt").to(device))
        if self.model.several:
            batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        apart = bool(self.model.stack.split) and used is not self.model and self.model.several
        if apart:  # ours says what an encoder-decoder writes first
            batch["decoder_input_ids"] = written_before(self.model.base_model, batch["input_ids"][:, :1])
        with torch.no_grad():
            logits: Tensor = used.eval()(**batch).logits
        if apart:
            logits = logits[:, 0]
        if logits.ndim == 3:  # of a plain language model; ours says what follows each text
            logits = logits[torch.arange(len(logits)), representative_positions(batch["attention_mask"], causal=True)]
        return logits.float()

    def untouched(self) -> TopModel:
        """The base model as it was before it was tuned, opened anew, with a language model's own head.

        Raises:
            ConfigError: The head is another: it was made new, and without training it says nothing.
        """
        head: Head = catalog.build("head", self.manifest.plan.head)
        if not head.speaks:
            raise ConfigError(
                f"the head {head.name} was made new, so the base model alone says nothing to compare with",
                "leave it out",
                "base",
            )
        task = task_of(self.data)
        return head.on(open_model(self.spec, language=True).stack, task.outputs(()), task, seed=0).eval()

    def read(self, data: Any, labels: LabelUse, columns: Mapping[str, str] | None = None) -> TextData:
        """Data with the task and classes of the training data; `unread` says which rows cannot be used, and why.

        Args:
            data: A source by its name, of whose splits `test` is read, or the data itself; see `load_data`.
            labels: As for `load_data`.
            columns: By setting of the task, columns that are called otherwise than in the training data.
        """
        return read_like(self.data, data, labels, columns)


def open_finetuned(folder: str | Path, model: str | ModelSpec | None = None) -> Finetuned:
    """Opens the folder that `wheretune tune` wrote.

    Args:
        folder: The folder, or the name under which `push_to_hub` uploaded it.
        model: Where the base model is now, or how it is opened, if not as it was; its weights must be the same.

    Raises:
        ConfigError: The manifest is damaged.
        DeltaError: The folder holds no finished run, or the base weights are others.
        ModelError: The base model cannot be opened.
    """
    saved = read_delta(local_folder(folder))
    trained_on(saved.content, Path(folder))
    spec = replace(saved.model, name=model, revision=None) if isinstance(model, str) else model or saved.model
    head: Head = catalog.build("head", saved.head)
    opened = open_model(spec, language=head.speaks)
    manifest = saved.manifest(opened.info)
    assert manifest.data is not None and manifest.max_length is not None
    task = task_of(manifest.data)
    headed = head.on(opened.stack, task.outputs(manifest.data.classes), task, seed=0)
    attached = _attach(opened.stack, manifest, saved)
    own = dict(headed.named_parameters())
    let_go = hold_masters(opened.stack, [*attached.parameters, *(own[name] for name in saved.tensors if name in own)])
    _fill(headed, attached, saved)
    return Finetuned(
        headed.eval(), opened.tokenizer, manifest, manifest.data, manifest.max_length, attached, let_go, spec
    )


# --- in a user's own model -----------------------------------------------------------------------


def load_delta(model: nn.Module, folder: str | Path) -> Manifest:
    """Puts a saved delta into a model that has the base weights it was made from.

    Args:
        model: The user's own model, of the same class as the one that was tuned.
        folder: From `save_delta`, or the name under which `push_to_hub` uploaded it.

    Raises:
        ConfigError: The manifest is damaged.
        DeltaError: The base weights are others than those the delta was made from, or a tensor does not fit.
    """
    saved = read_delta(local_folder(folder))
    stack = find_layers(model, saved.model.layers_attribute)
    manifest = saved.manifest(describe(stack))
    _fill(model, _attach(stack, manifest, saved), saved)
    return manifest


def _attach(stack: LayerStack, manifest: Manifest, saved: SavedDelta) -> Attached:
    """Puts what the tuner adds into the base model; a PEFT checkpoint comes with its weights."""
    adapter = saved.folder / ADAPTER
    if adapter.is_dir():
        return attach_saved(stack, adapter)
    attached: Attached = catalog.build("tuner", manifest.plan.tuner).attach(stack, manifest.plan.layers, seed=0)
    return attached


def _fill(model: nn.Module, attached: Attached, saved: SavedDelta) -> None:
    """Gives the parameters of a model the values that a delta has for them.

    Raises:
        DeltaError: A tensor does not fit; what the tuner added is taken off again.
    """
    own = dict(model.named_parameters())
    for name, value in saved.tensors.items():
        if name not in own or own[name].shape != value.shape:
            attached.detach()
            raise DeltaError(
                f"the model has no parameter {name} of shape {tuple(value.shape)}",
                "make the model as it was made for training (same class, same number of labels)",
            )
    with torch.no_grad():
        for name, value in saved.tensors.items():
            own[name].copy_(value)
