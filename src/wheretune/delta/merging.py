"""Merges a tuned model into a plain Transformers checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
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

SINGLE, HALF = 1e-4, 5e-2  # of the highest logit: by how much rounding in fp32 and in bf16 may change it


def merge(tuned: Finetuned, output: Path) -> bool:
    """Writes a plain Transformers checkpoint with the delta merged in.

    Where the family's own sequence classifier can compute the head, and is seen to give the same logits, the
    checkpoint is that classifier. Otherwise it is the base model, with the head beside it in `head.safetensors`.

    The weights are written in the precision that the base model was opened in; what was trained of a half-precision
    one in fp32 is rounded to it.

    Returns:
        Whether the checkpoint is a sequence classifier.

    Raises:
        OutputError: `output` is taken.
        MergeError: The tuner's modules can be no part of a plain checkpoint.
    """
    sweep(output.parent, output.name)
    if output.exists():
        raise OutputError(f"{output} already exists", "choose another folder", "output")
    model = tuned.model.cpu()
    tuned.let_masters_go()
    half = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in model.base.parameters())
    room = HALF if half else SINGLE
    before = tuned.probe()
    tuned.attached.merge()
    if not _agree(before, tuned.probe(), room):
        raise MergeError("the merged model gives other logits than the tuned one", "report this with the model's name")
    plain = _plain(tuned)
    if plain is not None and not _agree(before, tuned.probe(plain), room):
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


def _plain(tuned: Finetuned) -> nn.Module | None:
    """The family's own sequence classifier with the merged weights and the head, where it can compute the head."""
    model, problem_type = tuned.model, task_of(tuned.data).problem_type
    maps = [part for part in model.head if isinstance(part, nn.Linear)]
    if model.all_layers or problem_type is None:
        return None
    return plain_classifier(model.base, maps, tuned.data.classes, problem_type, tuned.tokenizer.pad_token_id)


def _agree(ours: Float[Tensor, "text output"], theirs: Float[Tensor, "text output"], room: float) -> bool:
    return bool((ours - theirs).abs().max() <= room * (1 + ours.abs().max()))
