"""A folder that holds a PEFT adapter alone is opened as the model below it with the adapter in its weights."""

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from helpers.own_models import own_model
from wheretune.errors import ModelError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.model.opening import open_model, outline
from wheretune.records.model import ModelSpec
from wheretune.support.hub import ADAPTER_CONFIG


def saved(model, base, folder):
    """Saves an adapter that says which model it was made for."""
    model.save_pretrained(folder)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": str(base)}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings))


@pytest.fixture
def adapted(tmp_path):
    """An adapter's folder, and the model that it makes; three labels, where the base was saved with two."""
    model, tokenizer = own_model()
    model.base_model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    model.config.num_labels = 3
    model.classifier = torch.nn.Linear(32, 3)
    made = get_peft_model(model, config)
    saved(made, tmp_path / "base", tmp_path / "adapter")
    return tmp_path / "adapter", made.merge_and_unload()


def test_an_adapter_is_opened_merged(adapted):
    folder, want = adapted
    opened = open_model(ModelSpec(str(folder)))
    assert opened.info.hash == describe(find_layers(want)).hash
    assert opened.info.name == str(folder.resolve())
    assert opened.tokenizer("the good")["input_ids"]
    assert outline(ModelSpec(str(folder)))[1].layers == opened.info.layers


def test_an_adapter_that_cannot_be_opened_is_refused_in_words(adapted, monkeypatch):
    folder, _ = adapted
    with pytest.raises(ModelError, match="is an encoder"):
        open_model(ModelSpec(str(folder)), language=True)
    monkeypatch.setattr("wheretune.model.opening.placing", lambda *_: {})  # which would miss bitsandbytes first
    with pytest.raises(ModelError, match="is a PEFT adapter, which is not merged into"):
        open_model(ModelSpec(str(folder), quantize="4bit"))
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not say which model"):
        open_model(ModelSpec(str(folder)))
    (folder / ADAPTER_CONFIG).write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        open_model(ModelSpec(str(folder)))


def test_a_prompt_cannot_be_merged(tmp_path):
    model, tokenizer = own_model()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    prompted = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    saved(prompted, tmp_path / "base", tmp_path / "p")
    with pytest.raises(ModelError, match="cannot merge the PEFT adapter"):
        open_model(ModelSpec(str(tmp_path / "p")))
