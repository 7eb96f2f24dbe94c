"""Runs of one process and of several, side by side."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.language import chats, kept
from helpers.texts import jsonl, rows_of

DRY = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
# the gradient of an encoder's key biases is zero but for rounding, and Adam makes steps of that
NOISE = ("key.bias", "k_proj.bias")


def furnish(folder, tiny_folder):
    """Models and data, 21 rows to train on: with a batch size of 5 the last batch has one row."""
    chats(folder / "chats.jsonl", 13)
    jsonl(folder / "train.jsonl", rows_of(21))
    jsonl(folder / "dev.jsonl", rows_of(7, 1))
    kept(folder / "qwen2")
    (folder / "bert").symlink_to(tiny_folder("bert", **DRY))
    return folder


def tune(place, output, *more, chat=False):
    model, train = ("qwen2", "chats.jsonl") if chat else ("bert", "train.jsonl")
    if "salf" in more:
        model = "qwen2"
    given = {
        "--model": place / model, "--train": place / train, "--validation": place / ("chats" if chat else "dev"),
        "--output": output, "--batch-size": 5, "--epochs": 2, "--learning-rate": 1e-3, "--logging-steps": 1,
        "--cache-prefix": "off", "--head": None if chat else "last-token:dropout=0",
    }  # fmt: skip
    given["--validation"] = given["--validation"].with_suffix(".jsonl")
    pairs = iter(more)
    given |= dict(zip(pairs, pairs, strict=True))
    flags = [name for name, value in given.items() if value is True]
    return [
        "tune",
        *flags,
        *(one for pair in given.items() if pair[1] is not None and pair[1] is not True for one in pair),
    ]


def tensors(folder):
    found = dict(load_file(folder / "delta.safetensors"))
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return found | (load_file(adapter) if adapter.is_file() else {})


def predictions(folder):
    lines = (folder / "predictions-validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(text):
    return [line.split(", learning")[0] for line in text.splitlines() if line.startswith("step ")]


def assert_alike(one, other, atol=1e-5):
    """Two runs ended with the same weights and say the same of every row."""
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys() and mine
    for name in mine:
        if not name.endswith(NOISE):
            torch.testing.assert_close(
                mine[name], theirs[name], atol=atol, rtol=0, msg=lambda found, name=name: f"{name}: {found}"
            )
    for a, b in zip(predictions(one), predictions(other), strict=True):
        assert (a["row"], a["truth"]) == (b["row"], b["truth"])
        assert a.get("probability", 0) == pytest.approx(b.get("probability", 0), abs=1e-3)
    metrics = [json.loads((folder / "result.json").read_text())["metrics"]["validation"] for folder in (one, other)]
    assert [metric["value"] for metric in metrics[0]] == pytest.approx([m["value"] for m in metrics[1]], abs=1e-3)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
