"""A delta of a user's own model: what it holds, what it restores, and where it is refused."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

import wheretune as wt
from helpers.own_models import own_model, planned, train
from wheretune.errors import DeltaError
from wheretune.model.identity import describe, tensor_hashes


def test_a_delta_holds_what_changed_and_restores_it(tmp_path):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1, 3))))
    train(model, tokenizer, tmp_path / "trainer")
    wt.save_delta(tuned, tmp_path / "delta")
    assert sorted(path.name for path in (tmp_path / "delta").iterdir()) == [
        "README.md",
        "delta.safetensors",
        "wheretune.json",
    ]
    with safe_open(tmp_path / "delta" / "delta.safetensors", "pt") as saved:
        assert set(saved.keys()) == set(tuned.trainable)
    fresh, _ = own_model()
    wt.load_delta(fresh, tmp_path / "delta")
    assert tensor_hashes(fresh.state_dict().items()) == tensor_hashes(model.state_dict().items())


def saved_delta(tmp_path):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Top(1)))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 1
    return wt.save_delta(tuned, tmp_path / "delta")


def test_a_delta_is_not_written_over_another_nor_with_holes(tmp_path):
    folder = saved_delta(tmp_path)
    before = (folder / "delta.safetensors").read_bytes()
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Top(1)))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 1
        with pytest.raises(wt.WheretuneError, match="holds a delta already"):
            wt.save_delta(tuned, folder)
        model.classifier.bias[0] = float("nan")
    with pytest.raises(wt.WheretuneError, match=r"diverged: classifier\.bias"):
        wt.save_delta(tuned, tmp_path / "other")
    with torch.no_grad():
        name, frozen = next(one for one in model.named_parameters() if one[0] not in tuned.trainable)
        frozen.view(-1)[0] = float("nan")
    tuned = wt.apply(model, dataclasses.replace(tuned.plan, model=describe(tuned.stack)))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += float("nan")
    with pytest.raises(wt.WheretuneError, match=f"{name} of the base model is not finite; check its checkpoint"):
        wt.save_delta(tuned, tmp_path / "other")
    assert (folder / "delta.safetensors").read_bytes() == before and not (tmp_path / "other").exists()


def test_a_delta_on_another_base_is_refused(tmp_path):
    folder = saved_delta(tmp_path)
    with pytest.raises(DeltaError, match="base model's weights"):
        wt.load_delta(own_model(seed=3)[0], folder)


def test_a_delta_that_was_cut_or_has_no_manifest_is_refused(tmp_path):
    folder = saved_delta(tmp_path)
    tensors = folder / "delta.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(DeltaError, match="changed after it was saved"):
        wt.load_delta(own_model()[0], folder)
    (folder / "wheretune.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DeltaError, match="format 99"):
        wt.load_delta(own_model()[0], folder)
    (folder / "wheretune.json").unlink()
    with pytest.raises(DeltaError, match="no finished delta"):
        wt.load_delta(own_model()[0], folder)


def test_a_delta_with_another_number_of_classes_is_refused(tmp_path):
    folder = saved_delta(tmp_path)
    other, _ = own_model()
    other.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(DeltaError, match="no parameter classifier"):
        wt.load_delta(other, folder)
