"""Everything below the lowest trained layer: no gradient, no dropout, computed once and cached.

Nothing is sliced and no module replaced: hooks, and a `forward` that lets states pass, so a model that reads settings
by the index of a layer works as ever. All of it comes off again.

The cache is addressed by content: a hook on the base model looks up the tokens of every text of a batch. A text that
is not there (a user's own augmentation, other data) makes the batch run as ever, so the cache can only save time.
"""

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wheretune.anatomy import base_inputs, head_parameters
from wheretune.capture import evaluating, forward_states
from wheretune.data import Batch, Collate, log, token_batches
from wheretune.errors import ConfigError, OutputError
from wheretune.files import PARTIAL, sweep, write
from wheretune.show.tables import progress, seconds
from wheretune.show.tables import size as told_size
from wheretune.types import LayerStack

Where = Literal["auto", "memory", "disk", "off"]
TOKENS = 1024  # padded tokens in a forward pass while the cache is filled
SPARE = 0.5  # of the free memory or disk that a cache may take
CLOSE = {"fp32": 1e-4, "bf16": 2**-7}  # how far a stored state may be from one computed anew, of the largest
TRIED = 4  # texts on which a cache is tried before it is used
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
        if self.where == "memory" and (self.keep or self.folder is not None):
            raise ConfigError("a cache in memory has no folder and is not kept", "give --cache-prefix disk")


@dataclass(frozen=True)
class CacheReport:
    """What was decided about a cache, and what it took.

    Attributes:
        where: `memory`, `disk` or `off`.
        reason: Why.
        bytes: Its size; 0 where there is none.
        seconds: What it took to make, also when it was made by an earlier run and kept.
    """

    where: Literal["memory", "disk", "off"]
    reason: str
    bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.where == "off":
            return f"none: {self.reason}"
        return f"{told_size(self.bytes)} in {self.where}, made in {seconds(self.seconds)}: {self.reason}"


# --- what is frozen ------------------------------------------------------------------------------


def lowest_trained(stack: LayerStack) -> int:
    """The lowest layer with a parameter that trains; L if there is none, and 0 if something outside the layers does."""
    if any(parameter.requires_grad for part in _outside(stack) for parameter in part.parameters()):
        return 0
    training = (layer.index for layer in stack.layers if _trains(layer.module))
    return min(training, default=len(stack))


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _outside(stack: LayerStack) -> list[nn.Module]:
    """The largest modules of the base model that hold no layer and are no head: embeddings, the final norm."""
    layers = {id(layer.module) for layer in stack.layers}
    head = {id(parameter) for parameter in head_parameters(stack)}  # the pooler is inside the base model

    def below(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if id(child) in layers:
                continue
            if any(id(inner) in layers for inner in child.modules()):
                yield from below(child)
            elif all(id(parameter) not in head for parameter in child.parameters()):
                yield child

    return list(below(stack.base))


def still(stack: LayerStack, dropout: bool = False) -> Callable[[], None]:
    """Keeps what is frozen out of the training; returns what undoes it.

    Frozen layers, and with frozen embeddings all else in the base model, stay in eval mode, though Trainer calls
    `model.train()` at every step; with activation checkpointing, one that a gradient passes is recomputed all the same,
    though Transformers does so in training mode only. The states that enter the first layer ask for no gradient, though
    activation checkpointing may make them do so: below the lowest trained layer no graph is made and nothing kept for
    it.

    Args:
        stack: The layers, what is frozen set to require no gradient.
        dropout: Leave frozen layers in whatever mode they are (stock behaviour).
    """
    hooks = []
    outside = _outside(stack)
    fixed = not any(_trains(part) for part in outside)
    frozen = [layer.module for layer in stack.layers if not _trains(layer.module)] + (outside if fixed else [])
    modules = [] if dropout else [module for part in frozen for module in part.modules()]

    def hush(base: nn.Module, _: Any) -> None:
        if base.training:
            for module in modules:
                module.training = False

    first = lowest_trained(stack)
    passed = [] if dropout else [x.module for x in stack.layers[first:] if not _trains(x.module)]
    restore = [_replace_forward(module, partial(_recomputed, stack.base, module, module.forward)) for module in passed]
    hooks.append(stack.base.register_forward_pre_hook(hush, prepend=True))
    if fixed:
        hooks.append(stack.layers[0].module.register_forward_pre_hook(_without_graph, with_kwargs=True))
        if 0 <= first < len(stack):
            hooks.append(stack.layers[first].module.register_forward_pre_hook(_for_reentrant, with_kwargs=True))

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for give_back in restore:
            give_back()
        for module in modules:
            module.training = stack.base.training

    return undo


def _recomputed(base: nn.Module, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A frozen layer in eval mode under activation checkpointing."""
    if base.training and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False):
        kwargs |= {name: None for name in ("past_key_values", "layer_past") if name in kwargs}  # it would grow twice
        how: Callable[..., Any] = module._gradient_checkpointing_func  # type: ignore[assignment]
        return how(partial(forward, **kwargs), *args)
    return forward(*args, **kwargs)


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Gives one module another `forward`; returns what gives the old one back."""
    before = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    return undo


def _without_graph(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return _with_hidden(args, kwargs, hidden.detach()) if hidden.requires_grad else None


def _for_reentrant(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Reentrant checkpointing gives a layer's parameters a gradient only if its input asks for one too."""
    how = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    if module.training and getattr(module, "gradient_checkpointing", False) and how.get("use_reentrant", False):
        hidden = args[0] if args else kwargs["hidden_states"]
        return _with_hidden(args, kwargs, hidden.detach().requires_grad_())
    return None


def _with_hidden(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Any:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


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
    """States in a file of raw numbers, mapped anew at every reading, so that what was read does not stay in memory."""

    path: Path
    width: int
    dtype: torch.dtype

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        mapped = np.memmap(self.path, _numbers(self.dtype), mode="r").reshape(-1, self.width)
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
        self._restore = [_replace_forward(m, partial(self._pass, i, m.forward)) for i, m in enumerate(below)]
        table = stack.base.get_input_embeddings()  # type: ignore[operator]
        self._restore.append(_replace_forward(table, partial(self._embed, table, table.forward)))
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
            self._kind = len(output) if isinstance(output, tuple) else None
            return output
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        hidden = self._now[index].to(given.dtype) if index in self._now else given
        return hidden if self._kind is None else (hidden, *[None] * (self._kind - 1))

    def _embed(self, table: nn.Module, forward: Callable[..., Any], ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Nothing that is fed depends on the embeddings: their table is not read."""
        if self._now is None:
            return forward(ids, *args, **kwargs)
        weight: Tensor = table.weight  # type: ignore[assignment]
        return weight.new_zeros(*ids.shape, weight.shape[1])

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
        self._store, self._now = None, None


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

    A cache on disk that a stopped run left is used again if it is whole and of the same model, texts and settings.

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
    size = (4 if settings.dtype == "fp32" else 2) * layout.width * sum(layout.rows(len(r["input_ids"])) for r in rows)
    place = settings.folder or folder
    cache = PrefixCache(stack, layout)
    path: Path | None = None
    try:
        report = _unneeded(layout, epochs, settings) or _where(size, settings, place)
        if report.where != "off" and settings.where == "auto":
            report = _worth_it(stack, rows, collate, epochs, size, report, place)
        if report.where == "disk":
            path = place / f"prefix-{_digest(model_hash, layout, rows, settings)}"
        if report.where != "off":
            report = _make(cache, stack, layout, rows, collate, settings, report, path)
        with _set_aside(stack, layout.first, folder) if report.where != "off" else nullcontext():
            yield report
        if path is not None and not settings.keep:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        cache.undo()


def _unneeded(layout: _Layout, epochs: int, settings: CacheSettings) -> CacheReport | None:
    if settings.where == "off":
        return CacheReport("off", "as asked")
    if layout.first == 0:
        return CacheReport("off", "nothing frozen lies below the lowest trained layer")
    if settings.where == "auto" and epochs < 2:
        return CacheReport("off", "every text is read once only")
    return None


def _where(size: int, settings: CacheSettings, place: Path) -> CacheReport:
    """Where a cache of `size` bytes fits."""
    asked: tuple[Literal["memory", "disk"], ...]
    asked = ("memory", "disk") if settings.where == "auto" else (settings.where,)  # type: ignore[assignment]
    if settings.where == "auto" and (settings.keep or settings.folder is not None):
        asked = ("disk",)
    for where in asked:
        free = _free_memory() if where == "memory" else _free_disk(place)
        allowed = SPARE * free if settings.limit is None else min(settings.limit, free)
        if size <= allowed:
            return CacheReport(where, f"of {told_size(free)} free", size)
        report = CacheReport(
            "off", f"{told_size(size)} are more than the {told_size(int(allowed))} it may take in {where}"
        )
        log.info("prefix cache: %s", report.reason)
    if settings.where != "auto":
        log.warning("no prefix cache: %s", report.reason)
    return report


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _free_disk(place: Path) -> int:
    there = next(folder for folder in (place, *place.resolve().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _worth_it(
    stack: LayerStack,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    epochs: int,
    size: int,
    report: CacheReport,
    place: Path,
) -> CacheReport:
    """Measures, on a batch of middling length, whether reading states is faster than computing them."""
    batches = token_batches(rows, TOKENS)
    batch = batches[len(batches) // 2]
    layout = _Layout(lowest_trained(stack), len(stack), False, stack.hidden_size)
    share = sum(len(row["input_ids"]) for row in batch) / max(1, sum(len(row["input_ids"]) for row in rows))
    took = []
    for _ in range(2):  # the first also warms up
        started = time.perf_counter()
        flat = _compute(stack, layout, collate(batch))
        took.append(time.perf_counter() - started)
    computing = took[-1] / share
    raw = torch.zeros(max(1, int(size * share) // 4))
    started = time.perf_counter()
    if report.where == "memory":
        raw.clone()
        writing = reading = (time.perf_counter() - started) / share
    else:
        draft = place / ".prefix-speed"
        write(draft, lambda path: path.write_bytes(raw.numpy().tobytes()))
        writing, started = (time.perf_counter() - started) / share, time.perf_counter()
        draft.read_bytes()
        reading = (time.perf_counter() - started) / share
        draft.unlink()
    del flat
    told = f"{seconds(computing)} to compute, {seconds(reading)} to read, {epochs} epochs"
    if writing + epochs * reading >= (epochs - 1) * computing:
        return CacheReport("off", f"it would not pay in {report.where} ({told})")
    return CacheReport(report.where, f"{told}; {report.reason}", size)


def _compute(stack: LayerStack, layout: _Layout, batch: Batch) -> Float[Tensor, "row hidden"]:
    """What is stored of a batch, text by text. The layers above let the states pass."""
    device = next(stack.base.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    mask = inputs["attention_mask"].bool()
    entering: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.append(args[0] if args else kwargs["hidden_states"])

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
        lambda _module, _args, output: kind.__setitem__(0, len(output) if isinstance(output, tuple) else None)
    )

    def skip(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if kind[0] is None else (hidden, *[None] * (kind[0] - 1))

    restore = [_replace_forward(layer.module, skip) for layer in stack.layers[first:]]
    try:
        yield
    finally:
        hook.remove()
        for give_back in restore:
            give_back()


def _make(
    cache: PrefixCache,
    stack: LayerStack,
    layout: _Layout,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    settings: CacheSettings,
    report: CacheReport,
    path: Path | None,
) -> CacheReport:
    """Fills the cache, or takes it from disk; a full disk leaves none, nor does a model that gives other states."""
    batches = token_batches(rows, TOKENS)
    spans, total = _spans(stack, layout, batches)
    dtype = torch.float32 if settings.dtype == "fp32" else torch.bfloat16
    if path is not None and path.is_dir():
        found = _found(path, total * layout.width * dtype.itemsize)
        if isinstance(found, float):
            cache.fill(OnDisk(path / "states.bin", layout.width, dtype), spans)
            if _agrees(cache, stack, layout, collate(batches[-1][:TRIED]), CLOSE[settings.dtype]):
                return CacheReport("disk", f"found whole in {path}", report.bytes, found)
            found = OTHER
        log.warning("the prefix cache in %s is made again: %s", path, found)
        shutil.rmtree(path)
    started = time.perf_counter()
    try:
        with progress() as shown:
            each = (_compute(stack, layout, collate(batch)) for batch in batches)
            computed = shown.track(each, len(batches), description=f"caching what lies below layer {layout.first}")
            if path is None:
                store: Store = InMemory.of(computed, total, layout.width, dtype)
            else:
                sweep(path.parent, path.name)
                write(path, lambda draft: _write(draft, computed, dtype, started))
                store = OnDisk(path / "states.bin", layout.width, dtype)
        cache.fill(store, spans)
        wrong = None if _agrees(cache, stack, layout, collate(batches[-1][:TRIED]), CLOSE[settings.dtype]) else OTHER
    except OutputError as error:
        wrong = error.problem
    if wrong is not None:
        cache.fill(None, {})
        log.warning("no prefix cache: %s", wrong)
        return CacheReport("off", wrong)
    return CacheReport(report.where, report.reason, report.bytes, time.perf_counter() - started)


def _agrees(cache: PrefixCache, stack: LayerStack, layout: _Layout, batch: Batch, close: float) -> bool:
    """Whether a batch that is fed gives what it gives when all layers run, in every state that the head reads."""
    device = next(stack.base.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
    read = slice(1 if layout.all_layers else -1, None)

    def states() -> Tensor:
        with torch.no_grad(), evaluating(stack.base):
            return forward_states(stack, inputs)[0][:, read]

    fed = states()
    with cache.resting():
        whole = states()
    return bool((fed - whole).abs().max() <= close * (1 + whole.abs().max()))


@contextmanager
def _set_aside(stack: LayerStack, first: int, folder: Path) -> Iterator[None]:
    """Inside, weights that the cache makes idle lie in a mapped file and not in memory.

    They can be read as ever, by a batch that is not in the cache for example, and come back afterwards. On a GPU they
    stay where they are, and so they do where the disk has no room.
    """
    parts = [*(layer.module for layer in stack.layers[:first]), *_outside(stack)]
    idle = {str(place): value for place, value in enumerate({p: None for part in parts for p in part.parameters()})}
    idle = {place: p for place, p in idle.items() if p.device.type == "cpu" and p.is_floating_point()}
    size = sum(p.numel() * p.element_size() for p in idle.values())
    folder.mkdir(parents=True, exist_ok=True)
    if size > SPARE * _free_disk(folder):
        idle = {}
    try:
        with TemporaryDirectory(prefix=f".prefix-weights{PARTIAL}", dir=folder, ignore_cleanup_errors=True) as scratch:
            file = Path(scratch) / "weights.safetensors"
            save_file({place: p.detach().contiguous() for place, p in idle.items()}, file)
            for place, mapped in load_file(file).items():
                idle[place].data = mapped  # the mapping outlives the file's name
    except (OSError, SafetensorError) as error:
        log.info("idle weights stay in memory: %s", error)
    try:
        yield
    finally:
        for p in idle.values():
            p.data = p.data.clone()


def _spans(
    stack: LayerStack, layout: _Layout, batches: Sequence[list[dict[str, Any]]]
) -> tuple[dict[Key, tuple[int, int]], int]:
    """Where every text stands in the store, and how many rows there are."""
    takes = inspect.signature(stack.base.forward).parameters
    names = [name for name in ("input_ids", "token_type_ids") if name in takes]
    spans: dict[Key, tuple[int, int]] = {}
    at = 0
    for batch in batches:
        for row in batch:
            length = layout.rows(len(row["input_ids"]))
            spans[_key([row[name] for name in names if name in row])] = (at, at + length)
            at += length
    return spans, at


def _write(draft: Path, computed: Iterable[Tensor], dtype: torch.dtype, started: float) -> None:
    draft.mkdir()
    found, size = hashlib.sha256(), 0
    with (draft / "states.bin").open("wb") as file:
        for flat in computed:
            raw = flat.to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes()
            found.update(raw)
            size += file.write(raw)
    made = {"format": FORMAT, "bytes": size, "sha256": found.hexdigest(), "seconds": time.perf_counter() - started}
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


def _digest(model_hash: str, layout: _Layout, rows: Sequence[Mapping[str, Any]], settings: CacheSettings) -> str:
    """What a cache is known by: weights, layer, what the head reads, precision, and the tokens of every text."""
    found = hashlib.sha256(repr((FORMAT, model_hash, layout, settings.dtype)).encode())
    for row in rows:
        parts = [(name, row[name]) for name in ("input_ids", "token_type_ids") if name in row]
        found.update(repr(parts).encode())
    return found.hexdigest()[:16]
