"""Whether a model that is fed from a cache gives what it gives when all layers run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wheretune.model.forward import forward_states
from wheretune.model.inputs import unlabelled
from wheretune.savings.both_ways import COARSE, BothWays
from wheretune.support.processes import gathered

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch
    from wheretune.savings.prefix_cache.feeding import PrefixCache
    from wheretune.savings.prefix_cache.job import CacheJob

CLOSE = {"fp32": 1e-4, "bf16": 2**-7}  # how far states fed from a cache may be from computed ones, of their length


def agrees(cache: PrefixCache, job: CacheJob) -> bool:
    """Whether a few texts that are fed give what they give when all layers run, in everything that the head reads."""
    stack, few, close = job.stack, job.few(), CLOSE[job.kind]
    if job.reader is not None:
        reader = job.reader
        return _agree(cache, stack, lambda: reader.features(few), close)
    if not job.layout.all_tokens:
        return _agree(cache, stack, lambda: _representative(job, few), close)
    return _agree(cache, stack, lambda: _last_states(stack, few), close) and _agree(
        cache, stack, lambda: _outputs(stack, few), COARSE
    )


def all_agree(cache: PrefixCache, job: CacheJob) -> bool:
    """Whether it does in every process of the run."""
    return all(gathered(agrees(cache, job)))


def _agree(cache: PrefixCache, stack: LayerStack, read: Callable[[], Tensor], fine: float) -> bool:
    with cache.resting():
        both = BothWays(stack.model, read, fine)
    hits = cache.hits
    return both.agree(read) and cache.hits > hits


def _representative(job: CacheJob, few: Batch) -> Tensor:
    """The representative token of every state that our own heads read, (text, state, hidden)."""
    read = slice(1 if job.layout.all_layers else -1, None)
    return forward_states(job.stack, unlabelled(few, few["input_ids"].device))[0][:, read]


def _last_states(stack: LayerStack, few: Batch) -> Tensor:
    """What the base model gives to a user's own head, for all tokens that are no padding, (token, hidden)."""
    seen: list[Tensor] = []
    hook = stack.base.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    try:
        _call(stack, few)
    finally:
        hook.remove()
    return seen[-1][few["attention_mask"].bool()]


def _outputs(stack: LayerStack, few: Batch) -> Tensor:
    """All numbers that a user's own model puts out, where they are not of padding, in one row."""
    output, mask = _call(stack, few), few["attention_mask"].bool()
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else (output,)
    floats = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    parts = [value[mask] if value.shape[:2] == mask.shape else value for value in floats]
    return torch.cat([part.flatten() for part in parts]).unsqueeze(0)


def _call(stack: LayerStack, few: Batch) -> Any:
    """Calls a user's own model as Trainer does, with what it takes of a batch."""
    takes = inspect.signature(type(stack.model).forward).parameters
    everything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    return stack.model(**{name: value for name, value in few.items() if everything or name in takes})
