"""Everything below the lowest trained layer is computed once and cached.

Nothing is sliced and no module replaced: hooks, and a `forward` that lets states pass, so a model that reads settings
by the index of a layer works as ever. All of it comes off again.

The cache is addressed by content: a hook on the base model looks up the tokens of every text of a batch. A text that
is not there (a user's own augmentation, other data) makes the batch run as ever, so the cache can only save time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wheretune.data.batches import spread
from wheretune.errors import OutputError
from wheretune.model.forward import closeness, evaluating, forward_states
from wheretune.model.freezing import lowest_trained, outside
from wheretune.model.inputs import unlabelled
from wheretune.savings.prefix_cache.deciding import DECIDED, SPARE, CacheReport, Job, compute, decide, free_disk
from wheretune.savings.prefix_cache.feeding import PrefixCache, key_of
from wheretune.savings.prefix_cache.store import InMemory, Layout, OnDisk
from wheretune.support.files import PARTIAL, digest, sweep, write
from wheretune.support.log import log
from wheretune.support.progress import progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Collate
    from wheretune.records.runs import CacheSettings
    from wheretune.savings.prefix_cache.feeding import Key
    from wheretune.savings.prefix_cache.store import Store

CLOSE = {"fp32": 1e-4, "bf16": 2**-7}  # how far states fed from a cache may be from computed ones, of their length
FORMAT = 1
OTHER = "fed from a cache, this model gives other states"


@contextmanager
def cached(
    stack: LayerStack,
    model_hash: str,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    epochs: int,
    settings: CacheSettings,
    folder: Path,
    all_layers: bool = False,
) -> Iterator[CacheReport]:
    """Inside, texts of `rows` are fed to the lowest trained layer from a cache, if that pays; then it is taken off.

    What a stopped run decided, and a cache on disk that it left, are taken again, if that cache is whole and of the
    same model, texts and settings.

    Args:
        stack: The layers, what is frozen set to require no gradient and to be `still`.
        model_hash: Of the base model's weights (`ModelInfo.hash`).
        rows: Encoded texts; their token ids are what the cache is known by.
        collate: Makes a batch of them.
        epochs: How often every text is read.
        settings: Where, and how much.
        folder: The run's own.
        all_layers: Whether the head reads every layer's representative token.

    Yields:
        What was decided, and why.
    """
    layout = Layout(lowest_trained(stack), len(stack), all_layers, stack.hidden_size)
    job = Job(stack, layout, rows, collate, settings.dtype, closeness(stack.base, CLOSE[settings.dtype]))
    own = settings.folder is None or not settings.keep
    place = folder if settings.folder is None else settings.folder
    if settings.folder is not None and own:  # another run with this --cache-dir must not find what we shall remove
        place /= f"prefix-{digest(str(folder.resolve()))[:16]}"
    path = place / f"prefix-{_digest(model_hash, job)}"
    started = time.perf_counter()
    with ExitStack() as after:
        report = decide(job, epochs, settings, place, path, folder / DECIDED)
        if report.where != "off":
            if own:
                sweep(place)
            cache = PrefixCache(stack, layout)
            after.callback(cache.undo)
            report = _make(cache, job, report, path if report.where == "disk" else None)
        if report.where != "off":
            after.enter_context(_set_aside(stack, layout.first, folder))
            cache.hits = cache.misses = 0
        yield replace(report, seconds=report.seconds + time.perf_counter() - started if report.bytes else 0.0)
        if report.where != "off" and cache.misses:
            log.warning("%d of %d batches were not in the prefix cache", cache.misses, cache.misses + cache.hits)
    (folder / DECIDED).unlink(missing_ok=True)
    if own:
        for left in [place] if place != folder else folder.glob("prefix-*"):
            shutil.rmtree(left, ignore_errors=True)


def _make(cache: PrefixCache, job: Job, report: CacheReport, path: Path | None) -> CacheReport:
    """Fills the cache, or takes it from disk; a full disk leaves none, nor does a model that gives other states."""
    batches = job.batches()
    spans = _spans(job, batches)
    if path is not None and path.is_dir():
        found = _found(path, job.size)
        if isinstance(found, float):
            cache.fill(OnDisk.open(path, job.layout.width, job.dtype), spans)
            if _agrees(cache, job):
                return replace(report, reason=f"found whole in {path}", seconds=found)
            cache.fill(None, {})
            found = OTHER
        log.warning("the prefix cache in %s is made again: %s", path, found)
        shutil.rmtree(path)
    try:
        with progress() as shown:
            each = (compute(job, batch) for batch in batches)
            computed = shown.track(each, len(batches), description=f"caching what lies below layer {job.layout.first}")
            if path is None:
                store: Store = InMemory.of(computed, job.total, job.layout.width, job.dtype)
            else:
                write(path, lambda draft: _write(draft, computed, job.dtype))
                store = OnDisk.open(path, job.layout.width, job.dtype)
        cache.fill(store, spans)
        if _agrees(cache, job):
            return report
        wrong = OTHER
    except OutputError as error:
        wrong = error.problem
    cache.fill(None, {})
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
    log.warning("no prefix cache: %s", wrong)
    return CacheReport("off", wrong)


def _agrees(cache: PrefixCache, job: Job) -> bool:
    """Whether texts that are fed give what they give when all layers run, in every state that the head reads."""
    inputs = unlabelled(job.collate(spread(job.rows)), next(job.stack.base.parameters()).device)
    read = slice(1 if job.layout.all_layers else -1, None)

    def states() -> Float[Tensor, "text state hidden"]:
        with torch.no_grad(), evaluating(job.stack.base):
            return forward_states(job.stack, inputs)[0][:, read]

    hits = cache.hits
    fed = states()
    with cache.resting():
        whole = states()
    apart = (fed - whole).norm(dim=2) / whole.norm(dim=2).clamp(min=1e-12)
    return cache.hits > hits and bool((apart <= job.close).all())


@contextmanager
def _set_aside(stack: LayerStack, first: int, folder: Path) -> Iterator[None]:
    """Inside, weights that the cache makes idle lie in a mapped file and not in memory.

    They can be read as ever, by a batch that is not in the cache for example, and come back afterwards. On a GPU they
    stay where they are, and so they do where the disk has no room.
    """
    parts = [*(layer.module for layer in stack.layers[:first]), *outside(stack)]
    idle = dict.fromkeys(p for part in parts for p in part.parameters())
    idle = {p: None for p in idle if p.device.type == "cpu" and p.is_floating_point()}
    folder.mkdir(parents=True, exist_ok=True)
    mapped: list[nn.Parameter] = []
    try:
        if sum(p.numel() * p.element_size() for p in idle) <= SPARE * free_disk(folder):
            with TemporaryDirectory(
                prefix=f".prefix-weights{PARTIAL}", dir=folder, ignore_cleanup_errors=True
            ) as scratch:
                file = Path(scratch) / "weights.safetensors"
                save_file({str(place): p.detach().contiguous() for place, p in enumerate(idle)}, file)
                values = load_file(file)  # a mapping outlives its file's name
            for place, p in enumerate(idle):
                p.data = values[str(place)]
                mapped.append(p)
    except (OSError, RuntimeError, SafetensorError) as error:
        log.info("idle weights stay in memory: %s", error)
    try:
        yield
    finally:
        for p in mapped:
            p.data = p.data.clone()


def _spans(job: Job, batches: Sequence[list[dict[str, Any]]]) -> dict[Key, tuple[int, int]]:
    """Where every text stands in the store."""
    takes = inspect.signature(job.stack.base.forward).parameters
    names = [name for name in ("input_ids", "token_type_ids") if name in takes]
    spans: dict[Key, tuple[int, int]] = {}
    at = 0
    for row in chain.from_iterable(batches):
        length = job.layout.rows(len(row["input_ids"]))
        spans[key_of([row[name] for name in names if name in row])] = (at, at + length)
        at += length
    return spans


def _write(draft: Path, computed: Iterable[Tensor], dtype: torch.dtype) -> None:
    draft.mkdir()
    started = time.perf_counter()
    found = hashlib.sha256()
    with (draft / "states.bin").open("wb") as file:
        for flat in computed:
            raw = flat.to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes()
            found.update(raw)
            file.write(raw)
    made = {"format": FORMAT, "sha256": found.hexdigest(), "seconds": time.perf_counter() - started}
    (draft / "cache.json").write_text(json.dumps(made))


def _found(path: Path, size: int) -> float | str:
    """The seconds it took to make a cache that is there, or what is wrong with it."""
    try:
        made = json.loads((path / "cache.json").read_text())
        took = float(made["seconds"])
        if made["format"] != FORMAT:
            return "it has another format"
        if (path / "states.bin").stat().st_size != size:
            return "it is not of the right size"
        with (path / "states.bin").open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != made["sha256"]:
                return "its content was changed"
    except (OSError, ValueError, KeyError, TypeError):
        return "it cannot be read"
    return took


def _digest(model_hash: str, job: Job) -> str:
    """What a cache is known by: weights, layer, what the head reads, precision, and the tokens of every text."""
    found = hashlib.sha256(repr((FORMAT, model_hash, job.layout, job.kind)).encode())
    for row in job.rows:
        parts = [(name, row[name]) for name in ("input_ids", "token_type_ids") if name in row]
        found.update(repr(parts).encode())
    return found.hexdigest()[:16]
