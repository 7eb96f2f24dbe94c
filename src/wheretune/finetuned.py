"""Opens what `run` wrote: a tuned model that predicts, and that merges into a plain Transformers checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from wheretune import catalog
from wheretune.anatomy import load_model, load_tokenizer, plain_classifier, resolve
from wheretune.data import LabelUse, TextData, collator, encode, load_data
from wheretune.delta import MANIFEST, PARTS, put_delta, read_delta
from wheretune.errors import DeltaError, MergeError, OutputError
from wheretune.files import sweep, write
from wheretune.heads import HeadedModel
from wheretune.training import predict
from wheretune.tuners.base import Attached
from wheretune.types import Manifest


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
        return predict(self.model, rows, collator(self.tokenizer), batch_size)

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
    here = _local(folder)
    manifest, tensors = read_delta(here)
    if manifest.data is None or manifest.max_length is None:
        raise DeltaError(
            f"{folder} was saved from a model of your own, whose class {MANIFEST} does not know",
            "make that model and call wheretune.load_delta(model, folder)",
        )
    name = model or manifest.plan.model.name
    revision = None if model else manifest.plan.model.revision
    base = load_model(name, revision, manifest.plan.model.quantize)
    outputs = max(len(manifest.data.classes), 1)
    headed = HeadedModel(
        base,
        catalog.head(manifest.plan.head),
        outputs,
        manifest.data.task,
        seed=0,
        layers_attribute=manifest.plan.model.layers_attribute,
    )
    attached = put_delta(headed, manifest, tensors, here, catalog.tuner(manifest.plan.tuner))
    return Finetuned(headed.eval(), load_tokenizer(name, revision), manifest, attached)


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Uploads a delta and its card to the hub, where `open_finetuned` and `load_delta` find it by its name.

    Args:
        folder: From `save_delta` or `wheretune tune`; only what belongs to the delta is uploaded.
        repository: `owner/name`; made if it is not there.
        private: Whether a repository that is made can be seen by its owner alone.

    Returns:
        The address of the upload.

    Raises:
        DeltaError: The folder holds no finished delta.
    """
    from huggingface_hub import HfApi

    read_delta(folder)
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    return str(hub.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=list(PARTS)))


def _local(folder: str | Path) -> Path:
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
    here = _local(folder)
    manifest, tensors = read_delta(here)
    put_delta(model, manifest, tensors, here, catalog.tuner(manifest.plan.tuner))
    return manifest


def merge(tuned: Finetuned, output: Path) -> bool:
    """Writes a plain Transformers checkpoint with the delta merged in.

    Where the family's own sequence classifier can compute the head, and is seen to give the same logits, the
    checkpoint is that classifier. Otherwise it is the base model, with the head beside it in `head.safetensors`.

    Returns:
        Whether the checkpoint is a sequence classifier.

    Raises:
        OutputError: `output` is taken.
        MergeError: The tuner's modules can be no part of a plain checkpoint.
    """
    sweep(output.parent, output.name)
    if output.exists():
        raise OutputError(f"{output} already exists", "choose another --output")
    model = tuned.model.cpu()
    before = tuned.probe()
    tuned.attached.merge()
    assert tuned.manifest.data is not None
    linear = model.head[-1]
    plain = None
    if not model.all_layers and isinstance(linear, nn.Linear):
        plain = plain_classifier(model.base, linear, tuned.manifest.data.classes, tuned.tokenizer.pad_token_id)
    if not _agree(before, tuned.probe()):
        raise MergeError("the merged model gives other logits than the tuned one", "report this with the model's name")
    if plain is not None and not _agree(before, tuned.probe(plain)):
        plain = None

    def fill(draft: Path) -> None:
        draft.mkdir()
        (plain or model.base).save_pretrained(draft)  # type: ignore[operator]
        tuned.tokenizer.save_pretrained(draft)
        if plain is None:
            head = {name: value.contiguous() for name, value in model.head.state_dict().items()}
            save_file(head, draft / "head.safetensors", {"format": "pt"})

    write(output, fill)
    return plain is not None


def _agree(ours: Float[Tensor, "text output"], theirs: Float[Tensor, "text output"]) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-4 * (1 + ours.abs().max()))
