"""Deltas of today: what a folder holds, and half-precision base models."""

import json
from pathlib import Path

import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune import planning
from wheretune.delta.merging import merge
from wheretune.delta.opening import open_finetuned, read_delta
from wheretune.errors import ConfigError, DeltaError
from wheretune.heads.headed import headed
from wheretune.heads.last_token import LastToken
from wheretune.model.opening import open_model
from wheretune.records.model import ModelSpec
from wheretune.selectors.fixed import Explicit
from wheretune.tasks.loading import from_texts
from wheretune.tuners.low_rank import LoRA
from wheretune.tuners.whole_layers import WholeLayers


def saved(folder, base: Path, tuner, dtype="fp32"):
    """A tuned model that was never trained: what trains is a little higher everywhere."""
    model, tokenizer = tiny_model("bert")
    if not base.is_dir():
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
    opened = open_model(ModelSpec(str(base), dtype=dtype))
    data = from_texts(sentences(16), [("bad", "good")[i % 2] for i in range(16)])
    plan = planning.plan(opened.info, Explicit((1, 3)), tuner=tuner, data=data.info)
    tuned = wt.apply(headed(opened.stack, LastToken(), data, 0), plan, masters=True)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 0.01
    wt.save_delta(tuned, folder, data=data.info, max_length=32)
    return tuned, opened, data


def logits(tuned, opened, data):
    from wheretune.data.tokens import encode
    from wheretune.judging import predict
    from wheretune.tasks.base import task_of

    rows = encode(data, opened.tokenizer, 32)
    return predict(tuned.model, rows, task_of(data.info).collator(opened.tokenizer))


@pytest.mark.parametrize("tuner", [WholeLayers(), LoRA(r=2)])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_opened_again_predicts_the_same_and_merges(tuner, dtype, tmp_path):
    tuned, opened, data = saved(tmp_path / "run", tmp_path / "base", tuner, dtype)
    before = logits(tuned, opened, data)
    again = open_finetuned(tmp_path / "run")
    assert (again.logits(data) == before).all()
    assert again.manifest.plan == tuned.plan and again.manifest.format == 2
    assert again.manifest.plan.model.spec.dtype == dtype
    assert merge(again, tmp_path / "merged")
    room = 1e-4 if dtype == "fp32" else 0.05
    torch.testing.assert_close(torch.tensor(again.logits(data)), torch.tensor(before), rtol=room, atol=room)


def test_a_damaged_manifest_is_refused_by_name(tmp_path):
    saved(tmp_path / "run", tmp_path / "base", WholeLayers())
    assert isinstance(read_delta(tmp_path / "run").content, dict)
    path = tmp_path / "run" / "wheretune.json"
    content = json.loads(path.read_text())
    content["plan"]["layers"] = [3, 1]
    path.write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match="not a valid manifest of a tuned model: plan: the chosen layers are not ascending"
    ):
        read_delta(tmp_path / "run")
    path.write_text("[]")
    with pytest.raises(DeltaError, match="holds no finished delta"):
        read_delta(tmp_path / "run")
