"""Where a prefix cache is to be, or that there is to be none."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float

from wheretune.data.batches import token_batches
from wheretune.errors import OutputError
from wheretune.model.calls import as_output, layer_input, output_kind, replace_forward
from wheretune.model.forward import evaluating, forward_states
from wheretune.model.inputs import unlabelled
from wheretune.support.files import PARTIAL, write_json
from wheretune.support.log import log
from wheretune.support.words import seconds
from wheretune.support.words import size as told_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Collate
    from wheretune.records.runs import CacheSettings
    from wheretune.savings.prefix_cache.store import Layout

TOKENS = 1024  # padded tokens in a forward pass while the cache is filled
SPARE = 0.5  # of the free memory or disk that a cache may take
DECIDED = "prefix-decided.json"  # what `auto` made of it, for a run that is stopped and goes on
PLACES: tuple[Literal["memory", "disk"], ...] = ("memory", "disk")  # as `auto` prefers them
PLACED = {"memory": "in memory", "disk": "on disk"}


@dataclass(frozen=True)
class CacheReport:
    """What was decided about a cache, and what it took.

    Attributes:
        where: `memory`, `disk` or `off`.
        reason: Why.
        bytes: Its size; 0 where there is none.
        dtype: Of what it holds.
        seconds: What deciding and making took, also when it was made by an earlier run and kept.
    """

    where: Literal["memory", "disk", "off"]
    reason: str
    bytes: int = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.where == "off":
            return f"none: {self.reason}"
        what = f"{told_size(self.bytes)} of {self.dtype} {PLACED[self.where]}"
        return f"{what}, made in {seconds(self.seconds)}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be cached.

    Attributes:
        stack: The layers.
        layout: What is stored of a text.
        rows: The texts.
        collate: Makes a batch of them.
        kind: `fp32` or `bf16`.
        close: How far a stored state may be from one computed anew, of its length.
    """

    stack: LayerStack
    layout: Layout
    rows: Sequence[Mapping[str, Any]]
    collate: Collate
    kind: Literal["fp32", "bf16"]
    close: float

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored states."""
        return torch.float32 if self.kind == "fp32" else torch.bfloat16

    @property
    def total(self) -> int:
        """Rows in the store."""
        return sum(self.layout.rows(len(row["input_ids"])) for row in self.rows)

    @property
    def size(self) -> int:
        """Bytes of the store."""
        return self.total * self.layout.width * self.dtype.itemsize

    def batches(self) -> list[list[dict[str, Any]]]:
        """The texts in the order in which they are stored."""
        return token_batches(self.rows, TOKENS)


def decide(job: Job, epochs: int, settings: CacheSettings, place: Path, path: Path, decided: Path) -> CacheReport:
    """Where the cache is to be, or that there is to be none; what a stopped run decided stands."""
    if settings.where == "off":
        return CacheReport("off", "as asked")
    if job.layout.first == 0:
        return CacheReport("off", "nothing frozen lies below the lowest trained layer")
    asked = settings.where
    if asked == "auto" and epochs < 2:
        return CacheReport("off", "every text is read once only")
    if asked == "auto" and decided.is_file():
        before = json.loads(decided.read_text(encoding="utf-8"))
        return CacheReport(before["where"], before["reason"], job.size if before["where"] != "off" else 0, job.kind)
    if asked != "memory" and path.is_dir():
        return CacheReport("disk", "it is there", job.size, job.kind)
    report = _where(job, settings, place)
    if asked == "auto":
        if report.where != "off":
            report = _worth_it(job, epochs, report, place)
        with suppress(OutputError):  # where nothing can be written no resumed run will look
            write_json(decided, {"where": report.where, "reason": report.reason})
    elif report.where == "off":
        log.warning("no prefix cache: %s", report.reason)
    return report


def _where(job: Job, settings: CacheSettings, place: Path) -> CacheReport:
    """Where a cache fits."""
    asked: list[Literal["memory", "disk"]] = [where for where in PLACES if settings.where in (where, "auto")]
    if settings.where == "auto" and settings.folder is not None:
        asked = ["disk"]
    refused = []
    for where in asked:
        free = _free_memory() if where == "memory" else free_disk(place)
        allowed = int(SPARE * free) if settings.limit is None else min(settings.limit, free)
        if job.size <= allowed:
            return CacheReport(where, f"of {told_size(free)} free", job.size, job.kind)
        refused.append(f"{told_size(job.size)} are more than the {told_size(allowed)} it may take {PLACED[where]}")
    return CacheReport("off", "; ".join(refused))


def _free_memory() -> int:
    """Of this machine or, where it is less, of the container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or none with a limit
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free)


def free_disk(place: Path) -> int:
    """Bytes free where `place` is or will be."""
    there = next(folder for folder in (place, *place.resolve().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _worth_it(job: Job, epochs: int, report: CacheReport, place: Path) -> CacheReport:
    """Measures, on a batch of middling length, whether reading states is faster than computing them."""
    batches = job.batches()
    batch = batches[len(batches) // 2]
    share = sum(len(row["input_ids"]) for row in batch) / sum(len(row["input_ids"]) for row in job.rows)

    def timed(work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / share

    states = compute(job, batch)  # also warms up
    computing = timed(lambda: compute(job, batch))
    if report.where == "memory":
        writing = reading = timed(states.clone)
    else:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".prefix-speed{PARTIAL}", dir=place) as scratch:
                file = Path(scratch) / "states"
                writing = timed(lambda: _flushed(file, states.cpu().numpy().tobytes()))
                reading = timed(file.read_bytes)
        except OSError as error:
            return CacheReport("off", f"nothing can be written in {place} ({error.strerror or error})")
    told = f"{seconds(computing)} to compute, {seconds(reading)} to read, {epochs} epochs"
    if not pays(computing, writing, reading, epochs):
        return CacheReport("off", f"it would not pay {PLACED[report.where]} ({told})")
    return replace(report, reason=f"{told}; {report.reason}")


def pays(computing: float, writing: float, reading: float, epochs: int) -> bool:
    """Whether computing once, writing once and reading in every epoch takes less than computing in every epoch."""
    return computing + writing + epochs * reading < epochs * computing


def _flushed(file: Path, content: bytes) -> None:
    """Writes a file and drops it from the system's own cache, so that reading it is reading the disk."""
    with file.open("wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compute(job: Job, rows: list[dict[str, Any]]) -> Float[Tensor, "row hidden"]:
    """What is stored of some texts, one after the other. The layers above let the states pass."""
    stack, layout, batch = job.stack, job.layout, job.collate(rows)
    inputs = unlabelled(batch, next(stack.base.parameters()).device)
    mask = inputs["attention_mask"].bool()
    entering: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.append(layer_input(args, kwargs))

    with torch.no_grad(), evaluating(stack.base), _idle(stack, layout.first):
        entry = stack.layers[min(layout.first, len(stack) - 1)].module
        hook = entry.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            tokens = forward_states(stack, inputs, last="raw")[0]
        finally:
            hook.remove()
    parts = []
    for row in range(len(mask)):
        if layout.whole:
            parts.append(entering[0][row][mask[row]].float())
        parts.append(tokens[row, list(layout.states)])
    return torch.cat(parts)


@contextmanager
def _idle(stack: LayerStack, first: int) -> Iterator[None]:
    """Inside, the layers from `first` up let the states pass; a layer below runs before them and shows how."""
    kind: list[int | None] = [None]
    hook = stack.layers[0].module.register_forward_hook(
        lambda _module, _args, output: kind.__setitem__(0, output_kind(output))
    )

    def skip(*args: Any, **kwargs: Any) -> Any:
        hidden = layer_input(args, kwargs)
        return as_output(hidden, kind[0])

    restore = [replace_forward(layer.module, skip) for layer in stack.layers[first:]]
    try:
        yield
    finally:
        hook.remove()
        for give_back in restore:
            give_back()
