"""Trainings with and without a saving, side by side."""

import torch
from torch import nn

import wheretune as wt
from helpers.families import planned, tiny
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from wheretune.data.batches import collator
from wheretune.data.tokens import encode
from wheretune.heads.headed import HeadedModel
from wheretune.heads.headed import headed as headed_by_data
from wheretune.model.finding import find_layers
from wheretune.model.freezing import lowest_trained
from wheretune.model.identity import describe
from wheretune.records.runs import CacheSettings
from wheretune.savings.prefix_cache.job import CacheJob
from wheretune.savings.prefix_cache.layout import Layout
from wheretune.savings.prefix_cache.making import cached
from wheretune.scorers.controls import Depth
from wheretune.tasks.classification import Classification


def batch(side="right"):
    ids = torch.arange(36).reshape(3, 12) % 40 + 5
    mask = torch.ones_like(ids)
    for row, padded in ((1, 4), (2, 9)):
        mask[row, slice(12 - padded, None) if side == "right" else slice(0, padded)] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model, given, labels=(0, 1, 1)):
    """The logits, and every gradient by name."""
    model.zero_grad()
    output = model(**given, labels=torch.tensor(labels))
    output.loss.backward()
    return output.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys() and one[1]
    for name in one[1]:
        torch.testing.assert_close(
            one[1][name], other[1][name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


HEADS = {"last-token": wt.LastToken(), "concat": wt.Concat()}


def texts(n=9):
    """Encoded rows of different lengths, and how they are padded, on either side."""
    generator = torch.Generator().manual_seed(0)
    lengths = [3 + (5 * i) % 11 for i in range(n)]
    ids = [torch.randint(5, 45, (length,), generator=generator).tolist() for length in lengths]
    rows = [
        {"input_ids": one, "attention_mask": [1] * len(one), "row": i, "labels": i % 2} for i, one in enumerate(ids)
    ]

    def collate(some, side="right"):
        longest = max(len(row["input_ids"]) for row in some)
        batch = {}
        for name in ("input_ids", "attention_mask"):
            pads = [[0] * (longest - len(row[name])) for row in some]
            both = [
                (row[name], pad) if side == "right" else (pad, row[name]) for row, pad in zip(some, pads, strict=True)
            ]
            batch[name] = torch.tensor([one + other for one, other in both])
        batch["labels"] = torch.tensor([row["labels"] for row in some])
        return batch

    return rows, collate


def given(rows, collate, side="right"):
    batch = collate(rows, side)
    return {name: value for name, value in batch.items() if name != "labels"}, tuple(batch["labels"].tolist())


def headed(family, head, layers, tuner=None):
    base = tiny(family)
    model = HeadedModel(find_layers(base), HEADS[head], 2, Classification(), 0).eval()
    how = tuner or (wt.WholeLayers() if layers else wt.HeadOnly())
    plan = planned(base, how, layers) if layers else wt.plan(describe(find_layers(base)), None, tuner=how)
    return model, wt.apply(model, plan, seed=1)


def job_of(tuned, rows, collate, dtype="fp32"):
    stack, every = tuned.stack, getattr(tuned.model, "all_layers", False)
    layout = Layout(lowest_trained(stack), len(stack), stack.hidden_size, all_layers=every)
    return CacheJob(stack, layout, rows, collate, dtype)


def caching(tuned, rows, collate, tmp_path, where="memory", epochs=3, dtype="fp32", machine=None, **settings):
    how, job = CacheSettings(where, **settings), job_of(tuned, rows, collate, dtype)
    return cached(job, tuned.plan.model.hash, epochs, how, tmp_path, machine)


def ran(model):
    """Which layers truly ran, counted where their attention or MLP ends."""
    seen = []
    for layer in model.stack.layers:
        inner = layer.module.get_submodule(layer.parts.mlp_output)
        inner.register_forward_hook(lambda *_, index=layer.index: seen.append(index))
    return seen


def without_dropout(family, layers, head="last-token"):
    base, tokenizer = tiny_model(family, seed=3)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    base.config.attention_dropout = base.config.attention_probs_dropout_prob = 0.0
    for module in base.modules():
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0
    data = wt.from_texts(sentences(40), classes_of(40), name="made")
    built = {"last-token": wt.LastToken(dropout=0.0), "concat": wt.Concat(dropout=0.0)}[head]
    model = headed_by_data(find_layers(base), built, data, seed=5)
    scores = wt.score(base, tokenizer, data, Depth())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit(layers), head=built), seed=5)
    return tuned, encode(data, tokenizer, 64), collator(tokenizer)
