"""A language model trained here and by TRL's SFTTrainer: the same plan, rows and settings give the same weights."""

import pytest
import torch

import wheretune as wt
from helpers.families import TUNERS
from helpers.language import chats, kept
from wheretune.applying import apply
from wheretune.heads.headed import headed
from wheretune.model.opening import open_model
from wheretune.planning import plan
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.together import saving
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data
from wheretune.training.loop import train


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_trl_gives_the_same_weights_and_losses(tmp_path, tuner):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    base = kept(tmp_path / "base")
    data = load_data(DataSpec(chats(tmp_path / "chats.jsonl"), Spec("chat"), max_length=96))
    opened = open_model(ModelSpec(base), language=True)
    made = plan(opened.info, wt.Explicit((2, 3)), tuner=TUNERS[tuner], data=data.info)
    rows = task_of(data.info).encode(data, opened.tokenizer, 96)
    collate = task_of(data.info).collator(opened.tokenizer)

    model = headed(opened.stack, None, data, 0)
    ours = apply(model, made, seed=1, before=opened.hashes_below(model.base_path))
    settings = TrainSettings(
        epochs=4, learning_rate=0.005, batch_size=16, warmup_ratio=0.0, lr_scheduler_type="constant",
        optim="adamw_torch", weight_decay=0.01, betas=(0.9, 0.999),
    )  # fmt: skip
    with saving(ours.stack, "x", rows, collate, settings, tmp_path / "run", CacheSettings("memory")) as saved:
        assert saved.one_token and saved.cache.where == "memory"
        assert train(model, rows, collate, settings, None).steps == 4

    plain = AutoModelForCausalLM.from_pretrained(base)
    theirs = apply(plain, made, seed=1)
    arguments = SFTConfig(
        str(tmp_path / "trl"), num_train_epochs=4, per_device_train_batch_size=16, learning_rate=0.005,
        lr_scheduler_type="constant", optim="adamw_torch", weight_decay=0.01, max_grad_norm=1.0, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, bf16=False, use_cpu=True,
        gradient_checkpointing=False, completion_only_loss=True, max_length=None,
    )  # fmt: skip
    columns = {
        "input_ids": [row["input_ids"] for row in rows],
        "completion_mask": [[int(label >= 0) for label in row["labels"]] for row in rows],
    }
    trainer = SFTTrainer(plain, arguments, train_dataset=Dataset.from_dict(columns), processing_class=opened.tokenizer)
    trainer.train()

    with torch.no_grad():
        given = collate(rows)
        model.eval(), plain.eval()
        torch.testing.assert_close(model(**given).loss, plain(**given).loss, atol=1e-3, rtol=1e-3)
    own = {name.removeprefix("language."): value for name, value in ours.trainable.items()}
    assert own.keys() == theirs.trainable.keys()
    for name, value in theirs.trainable.items():
        assert (value - own[name]).norm() <= 0.02 * value.norm() + 1e-4, name
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
