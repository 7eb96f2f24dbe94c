"""A small BERT layer, one that makes queries, keys and values by one map, and models to count by."""

import torch
import transformers as hf

from helpers.models import FAMILIES
from wheretune.cost.flops import Savings
from wheretune.model.finding import find_layers
from wheretune.records.model import LayerParts

CACHE, ONE, QUIET = Savings(cache=True), Savings(one_token=True), Savings(quiet=True)
D, WIDE, TEXT = 8, 32, 10.0  # a small BERT layer and a text of ten tokens
BERT = LayerParts(
    {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "up": (WIDE, D), "down": (D, WIDE)},
    "q", "k", "v", "o", "down", heads=2,
)  # fmt: skip
MAP, UP = 2 * D * D * TEXT, 2 * D * WIDE * TEXT  # FLOPs of a square map and of one of the MLP's
LINEAR = 4 * MAP + 2 * UP
ATTENTION = 4 * TEXT * TEXT * D
CUT = 2 * MAP + (2 * MAP + 2 * UP) / TEXT  # keys and values for all tokens, all else for one
FUSED = LayerParts(
    {"qkv": (3 * D, D), "o": (D, D), "up": (WIDE, D), "down": (D, WIDE)}, "qkv", "qkv", "qkv", "o", "down", heads=2,
    norm_first=True,
)  # fmt: skip


def bert_base(v):
    return hf.BertConfig(vocab_size=v, num_hidden_layers=4)


def opened(family):
    """A random model without padding in its way, attention as plain products, which PyTorch can count."""
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(bert_base(60) if family == "bert-base" else FAMILIES[family](60))
    model.pooler = None
    return model, find_layers(model)


def freeze(model, stack, chosen, embeddings=False):
    for parameter in model.parameters():
        parameter.requires_grad = embeddings
    for layer in chosen:
        for parameter in stack.layers[layer].module.parameters():
            parameter.requires_grad = True


def batch(model, tokens):
    ids = torch.arange(2 * tokens).reshape(2, tokens) % 40 + 5
    mask = torch.ones_like(ids)
    mask[1, tokens // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
