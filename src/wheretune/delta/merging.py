"""Merges a tuned model into a plain Transformers checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from safetensors.torch import save_file
from torch import nn

from wheretune.errors import MergeError, OutputError
from wheretune.model.classifier import plain_classifier
from wheretune.support.files import sweep, write
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.delta.opening import Finetuned


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
    linear, problem_type = model.head[-1], task_of(tuned.manifest.data).problem_type
    plain = None
    if not model.all_layers and isinstance(linear, nn.Linear) and problem_type is not None:
        classes = tuned.manifest.data.classes
        plain = plain_classifier(model.base, linear, classes, problem_type, tuned.tokenizer.pad_token_id)
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
