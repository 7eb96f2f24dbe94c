"""Weights that a prefix cache makes idle lie in a mapped file meanwhile, and not in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wheretune.model.freezing import outside
from wheretune.support.files import PARTIAL
from wheretune.support.log import log

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack


@contextmanager
def set_aside(stack: LayerStack, first: int, folder: Path, most: int) -> Iterator[None]:
    """Inside, the weights below layer `first` lie in a mapped file and not in memory.

    They can be read as ever, by a batch that is not in the cache for example, and come back afterwards. On a GPU they
    stay where they are, and so they do where the disk has no room.

    Args:
        stack: The layers.
        first: The lowest layer that trains.
        folder: Where the file lies; it has no name there once it is mapped.
        most: Bytes that it may take.
    """
    parts = [*(layer.module for layer in stack.layers[:first]), *outside(stack)]
    idle = dict.fromkeys(p for part in parts for p in part.parameters())
    idle = {p: None for p in idle if p.device.type == "cpu" and p.is_floating_point()}
    folder.mkdir(parents=True, exist_ok=True)
    mapped: list[nn.Parameter] = []
    try:
        if sum(p.numel() * p.element_size() for p in idle) <= most:
            with TemporaryDirectory(
                prefix=f".prefix-weights{PARTIAL}", dir=folder, ignore_cleanup_errors=True
            ) as scratch:
                file = Path(scratch) / "weights.safetensors"
                save_file({str(number): p.detach().contiguous() for number, p in enumerate(idle)}, file)
                values = load_file(file)  # a mapping outlives its file's name
            for number, p in enumerate(idle):
                p.data = values[str(number)]
                mapped.append(p)
    except (OSError, RuntimeError, SafetensorError) as error:
        log.info("idle weights stay in memory: %s", error)
    try:
        yield
    finally:
        for p in mapped:
            p.data = p.data.clone()
