"""What several processes hold of a model that is cut into shards; run in each of them."""

import gc
import weakref
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from wheretune.applying import Tuned
from wheretune.data.tokens import encode
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes
from wheretune.model.sharding import as_held, whole, write_tensors
from wheretune.schedules.static import Static
from wheretune.support.processes import gathered, join, leave, part, writes
from wheretune.tasks.base import task_of
from wheretune.training.checkpoints import held_by, optimizer_state


def begun(tuner, layers=(2, 3), dtype=torch.float32):
    """A tiny Llama to which a plan has been applied, in shards, and a batch."""
    base, tokenizer = tiny_model("llama")
    stack, data = find_layers(base.to(dtype)), wt.from_texts(sentences(6), classes_of(6))
    model = headed(stack, wt.LastToken(dropout=0), data, seed=0)
    plan = wt.plan(describe(stack), wt.Explicit(layers), tuner=tuner, data=data.info)
    tuned = Tuned(model, plan, tuner, Static(), seed=0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    whole = {name: weakref.ref(parameter) for name, parameter in model.named_parameters()}
    tuned.shard(torch.device("cpu"))
    gc.collect()
    held = {name for name, parameter in whole.items() if parameter() is not None}
    assert held <= {name for name, one in model.named_parameters() if not isinstance(one, DTensor)}
    return tuned, sizes, task_of(data.info).collator(tokenizer)(encode(data, tokenizer, 64)[part()[0] :: part()[1]])


def units(model):
    """The parameters of every unit, as torch has grouped them."""
    groups = [
        torch.distributed.fsdp.fully_shard.state(m)._fsdp_param_group
        for m in model.modules()
        if isinstance(m, FSDPModule)
    ]
    return [[one.sharded_param for one in group.fsdp_params] for group in groups if group is not None]


def step(tuned, batch):
    """One step of AdamW over what trains; returns the optimizer."""
    optimizer = torch.optim.AdamW(tuned.trainable.values(), lr=0.01)
    tuned.model(**batch).loss.backward()
    optimizer.step()
    return optimizer


def numbers(tensors):
    """How many numbers of some tensors lie in each process."""
    return gathered(sum(one.to_local().numel() if isinstance(one, DTensor) else one.numel() for one in tensors))


def whole_layers(half=False):
    """Weights, gradients and the optimizer's state are cut; what is frozen has neither."""
    join()
    tuned, sizes, batch = begun(wt.WholeLayers(), dtype=torch.bfloat16 if half else torch.float32)
    optimizer = step(tuned, batch)
    trained = sum(size for name, size in sizes.items() if name in tuned.trainable)
    fair = [0.4 * trained, 0.6 * trained]  # rows are cut, which need not be even
    parameters = dict(tuned.model.named_parameters())
    assert numbers(parameters.values()) != [sum(sizes.values())] * 2
    assert sum(numbers(parameters.values())) == sum(sizes.values())
    gradients = [one.grad for one in parameters.values() if one.grad is not None]
    moments = [slots[name] for slots in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    for held, times in ((tuned.trainable.values(), 1), (gradients, 1), (moments, 2)):
        here = numbers(held)
        assert sum(here) == times * trained and all(fair[0] * times < one < fair[1] * times for one in here)
    assert all(
        one.grad is None and one not in optimizer.state
        for name, one in parameters.items()
        if name not in tuned.trainable
    )
    assert len(found := units(tuned.model)) == 4 + 1 + 1  # layers, head, and what is around them
    assert all(len({one.requires_grad for one in unit}) == 1 for unit in found)
    kinds = {name: one.dtype for name, one in parameters.items()}
    assert {kinds[name] for name in tuned.trainable} == {torch.float32} == {one.dtype for one in (*gradients, *moments)}
    frozen = {kinds[name] for name in kinds if name not in tuned.trainable}
    assert frozen == {torch.bfloat16 if half else torch.float32}
    leave()


def in_part():
    """Of a layer that trains in part the frozen part is cut, and what trains lies whole in every process."""
    join()
    tuned, sizes, batch = begun(wt.LoRA(r=4))
    step(tuned, batch)
    assert not any(isinstance(one, DTensor) for one in tuned.trainable.values())
    assert all(not one.requires_grad for unit in units(tuned.model) for one in unit)
    frozen = sum(size for name, size in sizes.items() if name not in tuned.trainable)
    assert sum(numbers(one for unit in units(tuned.model) for one in unit)) == frozen
    leave()


def written(into):
    """What is written of shards is what safetensors writes of the whole, and each process finds its share in it."""
    join()
    tuned, _, batch = begun(wt.WholeLayers())
    optimizer = step(tuned, batch)
    slots = optimizer_state(optimizer, tuned.model)[0]
    tensors = {f"{name}/{slot}": value for name, of in slots.items() for slot, value in of.items()}
    tensors |= held_by(optimizer, tuned.model) | {"number": torch.arange(3), "half": torch.ones(3, 2).bfloat16()}
    files = [Path(into) / name for name in ("shards", "whole")]
    write_tensors(tensors, files[0] if writes() else None, {"format": "pt"})
    every = {name: whole(one.detach()).contiguous() for name, one in tensors.items()}
    assert tensor_hashes(tensors.items()) == tensor_hashes(every.items())
    if writes():
        save_file(every, files[1], {"format": "pt"})
        assert files[0].read_bytes() == files[1].read_bytes()
    for name, one in tensors.items():
        held = as_held(every[name], one)
        assert isinstance(held, DTensor) == isinstance(one, DTensor)
        assert torch.equal(*(part.to_local() if isinstance(part, DTensor) else part for part in (held, one))), name
    leave()
