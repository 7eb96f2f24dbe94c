"""A delta in the user's own model, and pushed to a hub."""

from pathlib import Path

import pytest
import torch

import wheretune as wt
from helpers.commands import FAST
from helpers.models import tiny_model
from helpers.texts import sentences
from helpers.tuners import planned
from wheretune.errors import DeltaError


def test_a_delta_is_put_into_the_user_s_own_model(tmp_path):
    for tuner in (wt.LoRA(r=2), wt.Adapter(), wt.Prefix(length=2), wt.IA3()):
        model, tokenizer = tiny_model("bert")
        tuned = wt.apply(model, planned(model, tuner))
        with torch.no_grad():
            for parameter in tuned.trainable.values():
                parameter += 0.1
        folder = tmp_path / tuner.name
        wt.save_delta(tuned, folder)
        fresh, _ = tiny_model("bert")
        batch = tokenizer(sentences(3), padding=True, return_tensors="pt")
        wt.load_delta(fresh, folder)
        with torch.no_grad():
            torch.testing.assert_close(fresh(**batch)[0], model(**batch)[0])
        assert not torch.equal(fresh(**batch)[0], tiny_model("bert")[0](**batch)[0])
    (tmp_path / "lora" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(DeltaError, match="changed after it was saved"):
        wt.load_delta(tiny_model("bert")[0], tmp_path / "lora")


def test_what_is_pushed_to_a_hub_opens_from_there(run, files, tiny_folder, tmp_path, monkeypatch):
    """The hub is a folder here: what would be uploaded is copied, and what would be downloaded is read."""
    import shutil
    from fnmatch import fnmatch

    import huggingface_hub

    class Hub:
        def model_info(self, name, revision=None, timeout=None):
            return type("Info", (), {"sha": "commit"})

        def create_repo(self, name, private, exist_ok):
            assert name == "somebody/tuned" and private and exist_ok

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            for path in Path(folder_path).rglob("*"):
                name = path.relative_to(folder_path)
                if path.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                    (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, tmp_path / "hub" / name)
            return "https://hub/somebody/tuned"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, revision, allow_patterns: str(tmp_path / "hub")
    )
    folder = tmp_path / "run"
    run("tune", "--model", tiny_folder("bert"), "--train", files["train"], "--tuner", "lora", "--output", folder, *FAST)
    assert wt.push_to_hub(folder, "somebody/tuned") == "https://hub/somebody/tuned"
    uploaded = {str(p.relative_to(tmp_path / "hub")) for p in (tmp_path / "hub").rglob("*") if p.is_file()}
    assert uploaded == {"README.md", "delta.safetensors", "wheretune.json", "adapter/adapter_config.json",
                        "adapter/adapter_model.safetensors"}  # fmt: skip
    monkeypatch.chdir(tmp_path)
    there, here = wt.open_finetuned("somebody/tuned"), wt.open_finetuned(folder)
    data = wt.from_texts(sentences(5))
    assert (there.logits(data) == here.logits(data)).all()
    with pytest.raises(DeltaError, match="no finished delta"):
        wt.push_to_hub(tmp_path / "hub" / "adapter", "somebody/tuned")
