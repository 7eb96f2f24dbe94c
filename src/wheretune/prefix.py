"""Everything below the lowest trained layer is computed once and cached.

Nothing is sliced and no module replaced: hooks, and a `forward` that lets states pass, so a model that reads settings
by the index of a layer works as ever. All of it comes off again.

The cache is addressed by content: a hook on the base model looks up the tokens of every text of a batch. A text that
is not there (a user's own augmentation, other data) makes the batch run as ever, so the cache can only save time.
"""

import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wheretune.anatomy import base_inputs
from wheretune.capture import closeness, evaluating, forward_states, layer_input, unlabelled
from wheretune.data import Collate, log, spread, token_batches
from wheretune.errors import ConfigError, OutputError
from wheretune.files import PARTIAL, digest, sweep, write, write_json
from wheretune.freezing import lowest_trained, outside, replace_forward
from wheretune.show.tables import progress, seconds
from wheretune.show.tables import size as told_size
from wheretune.types import LayerStack

Where = Literal["auto", "memory", "disk", "off"]
TOKENS = 1024  # padded tokens in a forward pass while the cache is filled
SPARE = 0.5  # of the free memory or disk that a cache may take
CLOSE = {"fp32": 1e-4, "bf16": 2**-7}  # how far states fed from a cache may be from computed ones, of their length
DECIDED = "prefix-decided.json"  # what `auto` made of it, for a run that is stopped and goes on
PLACES: tuple[Literal["memory", "disk"], ...] = ("memory", "disk")  # as `auto` prefers them
PLACED = {"memory": "in memory", "disk": "on disk"}
FORMAT = 1
OTHER = "fed from a cache, this model gives other states"
Key = bytes  # the hash of a text's tokens


@dataclass(frozen=True)
class CacheSettings:
    """Where the states that enter the lowest trained layer are kept.

    Attributes:
        where: `auto` decides by size, free memory and disk, and measured speed; or `memory`, `disk` or `off`.
        dtype: `fp32`, the same result; or `bf16`, half the size.
        folder: For a cache on disk; the run's own folder by default.
        limit: Bytes it may take at most; half of what is free by default.
        keep: Leave a cache on disk for the next run.
    """

    where: Where = "auto"
    dtype: Literal["fp32", "bf16"] = "fp32"
    folder: Path | None = None
    limit: int | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if self.where not in ("auto", "memory", "disk", "off") or self.dtype not in ("fp32", "bf16"):
            raise ConfigError(
                f"a prefix cache in {self.where}, of {self.dtype}, is not known",
                "give auto, memory, disk or off, and fp32 or bf16",
            )
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"the prefix cache may take {self.limit} bytes", "give 0 or more")
        if self.where in ("memory", "off") and (self.keep or self.folder is not None):
            raise ConfigError(f"with --cache-prefix {self.where} nothing lies in a folder", "give --cache-prefix disk")
        if self.keep and self.folder is None:
            raise ConfigError("--keep-cache would keep it where no other run looks", "give --cache-dir")


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


# --- the cache -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InMemory:
    """States in a tensor."""

    rows: Tensor

    @classmethod
    def of(cls, computed: Iterable[Tensor], total: int, width: int, dtype: torch.dtype) -> "InMemory":
        """All that is computed, in that order."""
        rows, at = torch.empty(total, width, dtype=dtype), 0
        for flat in computed:
            rows[at : at + len(flat)] = flat
            at += len(flat)
        return cls(rows)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        return torch.cat([self.rows[start:stop] for start, stop in spans])


@dataclass(frozen=True, eq=False)
class OnDisk:
    """States in a file of raw numbers, mapped anew at every reading, so that what was read does not stay in memory.

    The file stays open: another process may take its name away.
    """

    file: BinaryIO
    width: int
    dtype: torch.dtype

    @classmethod
    def open(cls, path: Path, width: int, dtype: torch.dtype) -> "OnDisk":
        """What `_write` wrote."""
        return cls((path / "states.bin").open("rb"), width, dtype)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        mapped = np.memmap(self.file, _numbers(self.dtype), mode="r").reshape(-1, self.width)
        found = np.concatenate([mapped[start:stop] for start, stop in spans])
        return torch.from_numpy(found).view(self.dtype)


Store = InMemory | OnDisk


def _numbers(dtype: torch.dtype) -> Any:
    return np.float32 if dtype == torch.float32 else np.int16  # NumPy has no bf16: the same bits


@dataclass(frozen=True, eq=False)
class _Layout:
    """What is stored of every text.

    First come the states of all its tokens that enter the lowest trained layer (none if no layer trains), then the
    representative token of the states that the head reads below it.

    Attributes:
        first: The lowest trained layer; L if only the head trains.
        layers: L.
        all_layers: Whether the head reads the representative token of every layer.
        width: The hidden size.
    """

    first: int
    layers: int
    all_layers: bool
    width: int

    @property
    def whole(self) -> bool:
        """Whether the states of all tokens are stored."""
        return self.first < self.layers

    @property
    def states(self) -> tuple[int, ...]:
        """The states (i + 1 is what layer i puts out) whose representative token is stored."""
        if self.all_layers:
            return tuple(range(1, self.first + (0 if self.whole else 1)))
        return () if self.whole else (self.first,)

    def rows(self, tokens: int) -> int:
        """How many rows of `width` numbers a text of so many tokens takes."""
        return (tokens if self.whole else 0) + len(self.states)


class PrefixCache:
    """Feeds the lowest trained layer from stored states, so that nothing below it runs.

    Attributes:
        hits: Batches that were fed.
        misses: Batches that ran as ever, because a text of theirs was not stored or all states were asked for.
    """

    def __init__(self, stack: LayerStack, layout: _Layout) -> None:
        self.hits = self.misses = 0
        self._layout = layout
        self._store: Store | None = None
        self._spans: dict[Key, tuple[int, int]] = {}
        self._now: dict[int, Tensor] | None = None  # by layer: what it puts out, while a batch is fed
        self._kind: int | None = None  # how long a tuple a layer puts out, None for a plain tensor
        self._base = stack.base
        below = [layer.module for layer in stack.layers[: layout.first]]
        self._restore = [replace_forward(m, partial(self._pass, i, m.forward)) for i, m in enumerate(below)]
        table = _table(stack.base)
        if table is not None:
            self._restore.append(replace_forward(table, partial(self._embed, table, table.forward)))
        self._hooks = [
            stack.base.register_forward_pre_hook(self._look, with_kwargs=True),
            stack.base.register_forward_hook(self._forget, always_call=True),
        ]

    def fill(self, store: Store | None, spans: dict[Key, tuple[int, int]]) -> None:
        """Begins to feed, or ends it."""
        self._store, self._spans = store, spans

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, every batch runs as ever."""
        store, self._store = self._store, None
        try:
            yield
        finally:
            self._store = store

    def _pass(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._now is None:
            output = forward(*args, **kwargs)
            self._kind = _kind(output)
            return output
        given = layer_input(args, kwargs)
        hidden = self._now[index].to(given.dtype) if index in self._now else given
        return _answer(hidden, self._kind)

    def _embed(self, table: nn.Embedding, forward: Callable[..., Any], ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Nothing that is fed depends on the embeddings: their table is not read."""
        if self._now is None:
            return forward(ids, *args, **kwargs)
        return table.weight.new_zeros(*ids.shape, table.embedding_dim)

    def _look(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._now = None
        if self._store is None:
            return
        given = base_inputs(base, args, kwargs)
        spans = None if _asks_for_more(base, given) else self._find(given)
        if spans is None:
            self.misses += 1
            return
        self.hits += 1
        self._now = self._output(self._store, spans, given)

    def _find(self, given: Mapping[str, Any]) -> list[tuple[int, int]] | None:
        found = [self._spans.get(key) for key in _keys(given)]
        spans = [span for span in found if span is not None]
        return spans if len(spans) == len(found) else None

    def _output(self, store: Store, spans: Sequence[tuple[int, int]], given: Mapping[str, Any]) -> dict[int, Tensor]:
        """What the layers put out: the last of them all tokens, others the one that is read, at every place."""
        ids: Tensor = given["input_ids"]
        mask, lengths = given.get("attention_mask"), _packed_lengths(given)
        count, layout = len(layout_states := self._layout.states), self._layout
        flat = store.read(spans).to(ids.device, non_blocking=True)
        out: dict[int, Tensor] = {}
        if count:
            ends = torch.tensor([stop - start for start, stop in spans], device=ids.device).cumsum(0)
            places = ends.unsqueeze(1) - count + torch.arange(count, device=ids.device)
            for column, state in enumerate(layout_states):
                read = flat[places[:, column]]
                if lengths is None:
                    out[state - 1] = read.unsqueeze(1).expand(-1, ids.shape[1], -1)
                else:
                    out[state - 1] = read.repeat_interleave(torch.tensor(lengths, device=ids.device), 0).unsqueeze(0)
            token = torch.ones(len(flat), dtype=torch.bool, device=ids.device)
            token[places.flatten()] = False
            flat = flat[token]
        if layout.whole and lengths is not None:
            out[layout.first - 1] = flat.unsqueeze(0)
        elif layout.whole:
            padded = flat.new_zeros(*ids.shape, layout.width)
            padded[torch.ones_like(ids).bool() if mask is None else mask.bool()] = flat
            out[layout.first - 1] = padded
        return out

    def _forget(self, *_: Any) -> None:
        self._now = None

    def undo(self) -> None:
        """Lets every layer run again."""
        for hook in self._hooks:
            hook.remove()
        for give_back in self._restore:
            give_back()
        if isinstance(self._store, OnDisk):
            self._store.file.close()
        self._store, self._now = None, None


def _kind(output: Any) -> int | None:
    """How long a tuple a layer puts out; None for a plain tensor."""
    return len(output) if isinstance(output, tuple) else None


def _answer(hidden: Tensor, kind: int | None) -> Any:
    """States as a layer of that kind puts them out."""
    return hidden if kind is None else (hidden, *[None] * (kind - 1))


def _table(base: nn.Module) -> nn.Embedding | None:
    """The embeddings of the tokens, where the model says which they are."""
    try:
        table = base.get_input_embeddings()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):
        return None
    return table if isinstance(table, nn.Embedding) else None


def _asks_for_more(base: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether a batch is given as no token ids, or all states or attentions are wanted of it."""
    names = ("output_hidden_states", "output_attentions")
    wanted = (given.get(name, getattr(base.config, name, None)) for name in names)
    return given.get("input_ids") is None or any(wanted) or given.get("past_key_values") is not None


def _packed_lengths(given: Mapping[str, Any]) -> list[int] | None:
    """How long the texts of a packed batch are: positions begin anew with each; None of a batch with a text a row."""
    positions: Tensor | None = given.get("position_ids")
    if given.get("attention_mask") is not None or positions is None:
        return None
    if len(positions) != 1 or positions.shape != given["input_ids"].shape:
        return None
    starts = (positions[0] == positions[0, 0]).nonzero().flatten().tolist()
    return [stop - start for start, stop in pairwise([*starts, positions.shape[1]])]


def _keys(given: Mapping[str, Any]) -> list[Key]:
    """What every text of a batch is known by, whatever the padding, or packed."""
    ids: Int[Tensor, "batch token"] = given["input_ids"].cpu()
    mask, types, lengths = given.get("attention_mask"), given.get("token_type_ids"), _packed_lengths(given)
    columns = [ids, *([] if types is None else [types.cpu()])]
    if lengths is not None:
        return [_key(parts) for parts in zip(*(column[0].split(lengths) for column in columns), strict=True)]
    kept = torch.ones_like(ids).bool() if mask is None else mask.cpu().bool()
    return [_key([column[row][kept[row]].numpy() for column in columns]) for row in range(len(ids))]


def _key(columns: Sequence[Any]) -> Key:
    """The hash of a text's tokens and, where the model reads them, of their types."""
    found = hashlib.blake2b(digest_size=16)
    for column in columns:
        found.update(np.asarray(column, dtype=np.int64).tobytes())
    return found.digest()


# --- filling it ----------------------------------------------------------------------------------


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
    layout = _Layout(lowest_trained(stack), len(stack), all_layers, stack.hidden_size)
    job = _Job(stack, layout, rows, collate, settings.dtype, closeness(stack.base, CLOSE[settings.dtype]))
    own = settings.folder is None or not settings.keep
    place = folder if settings.folder is None else settings.folder
    if settings.folder is not None and own:  # another run with this --cache-dir must not find what we shall remove
        place /= f"prefix-{digest(str(folder.resolve()))[:16]}"
    path = place / f"prefix-{_digest(model_hash, job)}"
    started = time.perf_counter()
    with ExitStack() as after:
        report = _decide(job, epochs, settings, place, path, folder / DECIDED)
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


@dataclass(frozen=True, eq=False)
class _Job:
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
    layout: _Layout
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


def _decide(job: _Job, epochs: int, settings: CacheSettings, place: Path, path: Path, decided: Path) -> CacheReport:
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


def _where(job: _Job, settings: CacheSettings, place: Path) -> CacheReport:
    """Where a cache fits."""
    asked: list[Literal["memory", "disk"]] = [where for where in PLACES if settings.where in (where, "auto")]
    if settings.where == "auto" and settings.folder is not None:
        asked = ["disk"]
    refused = []
    for where in asked:
        free = _free_memory() if where == "memory" else _free_disk(place)
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


def _free_disk(place: Path) -> int:
    there = next(folder for folder in (place, *place.resolve().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _worth_it(job: _Job, epochs: int, report: CacheReport, place: Path) -> CacheReport:
    """Measures, on a batch of middling length, whether reading states is faster than computing them."""
    batches = job.batches()
    batch = batches[len(batches) // 2]
    share = sum(len(row["input_ids"]) for row in batch) / sum(len(row["input_ids"]) for row in job.rows)

    def timed(work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / share

    states = _compute(job, batch)  # also warms up
    computing = timed(lambda: _compute(job, batch))
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


def _compute(job: _Job, rows: list[dict[str, Any]]) -> Float[Tensor, "row hidden"]:
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
        lambda _module, _args, output: kind.__setitem__(0, _kind(output))
    )

    def skip(*args: Any, **kwargs: Any) -> Any:
        hidden = layer_input(args, kwargs)
        return _answer(hidden, kind[0])

    restore = [replace_forward(layer.module, skip) for layer in stack.layers[first:]]
    try:
        yield
    finally:
        hook.remove()
        for give_back in restore:
            give_back()


def _make(cache: PrefixCache, job: _Job, report: CacheReport, path: Path | None) -> CacheReport:
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
            each = (_compute(job, batch) for batch in batches)
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


def _agrees(cache: PrefixCache, job: _Job) -> bool:
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
        if sum(p.numel() * p.element_size() for p in idle) <= SPARE * _free_disk(folder):
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


def _spans(job: _Job, batches: Sequence[list[dict[str, Any]]]) -> dict[Key, tuple[int, int]]:
    """Where every text stands in the store."""
    takes = inspect.signature(job.stack.base.forward).parameters
    names = [name for name in ("input_ids", "token_type_ids") if name in takes]
    spans: dict[Key, tuple[int, int]] = {}
    at = 0
    for row in chain.from_iterable(batches):
        length = job.layout.rows(len(row["input_ids"]))
        spans[_key([row[name] for name in names if name in row])] = (at, at + length)
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


def _digest(model_hash: str, job: _Job) -> str:
    """What a cache is known by: weights, layer, what the head reads, precision, and the tokens of every text."""
    found = hashlib.sha256(repr((FORMAT, model_hash, job.layout, job.kind)).encode())
    for row in job.rows:
        parts = [(name, row[name]) for name in ("input_ids", "token_type_ids") if name in row]
        found.update(repr(parts).encode())
    return found.hexdigest()[:16]
