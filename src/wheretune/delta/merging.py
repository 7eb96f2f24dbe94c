"""Merges a tuned model into a plain Transformers checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file

from wheretune.errors import MergeError, OutputError
from wheretune.support.files import sweep, write
from wheretune.support.sight import processor_of
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.delta.opening import Finetuned

FORMAT = {"format": "pt"}
SINGLE, HALF = 1e-4, 5e-2  # of the highest logit: by how much rounding in fp32 and in bf16 may change it


def merge(tuned: Finetuned, output: Path) -> str | None:
    """Writes a plain Transformers checkpoint with the delta merged in.

    A language model becomes one again, with its tokenizer (or processor), chat template and generation settings. Where
    the family's own sequence classifier can compute the head, and is seen to give the same logits, the checkpoint is
    that classifier. Otherwise it is the base model, with the head beside it in `head.safetensors`.

    The weights are written in the precision that the base model was opened in; what was trained of a half-precision
    one in fp32 is rounded to it.

    Returns:
        The class of Transformers that opens the checkpoint with its head; None if it is without.

    Raises:
        OutputError: `output` is taken.
        MergeError: The tuner's modules can be no part of a plain checkpoint.
    """
    sweep(output.parent, output.name)
    if output.exists():
        raise OutputError(f"{output} already exists", "choose another folder", "output")
    model = tuned.model.cpu()
    tuned.let_masters_go()
    half = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in model.base_model.parameters())
    room = HALF if half else SINGLE
    before = tuned.probe()
    tuned.attached.merge()
    if not _agree(before, tuned.probe(), room):
        raise MergeError("the merged model gives other logits than the tuned one", "report this with the model's name")
    task = task_of(tuned.data)
    task.equip(tuned.tokenizer)
    plain: Any = model.plain(tuned.data.classes, task.problem_type, tuned.tokenizer.pad_token_id)
    if plain is not None and not _agree(before, tuned.probe(plain), room):
        plain = None

    def fill(draft: Path) -> None:
        draft.mkdir()
        base: Any = model.base_model
        (plain or base).save_pretrained(draft)
        _save_reader(tuned.tokenizer, draft)
        if plain is None:
            below = f"{model.base_path}."
            head = {n: value.contiguous() for n, value in model.state_dict().items() if not n.startswith(below)}
            save_file({n.removeprefix("head."): value for n, value in head.items()}, draft / "head.safetensors", FORMAT)

    write(output, fill)
    return None if plain is None else model.auto


def _save_reader(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer, as part of the processor of a model that sees."""
    processor = processor_of(tokenizer)
    if processor is None:
        tokenizer.save_pretrained(folder)
        return
    processor.chat_template = tokenizer.chat_template
    processor.save_pretrained(folder)


def _agree(ours: Float[Tensor, "text output"], theirs: Float[Tensor, "text output"], room: float) -> bool:
    return bool((ours - theirs).abs().max() <= room * (1 + ours.abs().max()))
