"""What should train and does not is found in the first step; no tuner, family or schedule makes a false alarm."""

import pytest
import torch
from torch.optim import AdamW
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import wheretune as wt
from helpers.families import TUNERS
from helpers.often import often
from helpers.own_models import own_model, planned
from helpers.texts import sentences
from helpers.training import fresh
from wheretune.errors import EngagementError
from wheretune.records.runs import TrainSettings
from wheretune.training import engagement
from wheretune.training.loop import train


@pytest.fixture
def said(monkeypatch):
    """The warnings."""
    words = []
    monkeypatch.setattr(engagement.log, "warning", lambda text, *given: words.append(text % given))
    return words


def trainer(model, tokenizer, folder, callbacks, optimizer=None, **options):
    rows = [{**tokenizer(text), "labels": i % 2} for i, text in enumerate(sentences(16))]
    arguments = TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
        save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    return Trainer(
        model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer), callbacks=callbacks,
        optimizers=(optimizer, None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "tuner"),
    often(
        [*(("bert", tuner) for tuner in TUNERS), ("gpt2", "lora"), ("gpt2", "full")],
        [("bert", "lora"), ("bert", "bias"), ("gpt2", "full")],
    ),
)
def test_no_false_alarm_in_a_trainer_of_one_s_own(family, tuner, tmp_path, said):
    model, tokenizer = own_model(family)
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1, 3)), tuner=TUNERS[tuner]))
    callbacks = [wt.FollowerCallback(tuned.followers), wt.EngagementCallback(tuned)]
    trainer(model, tokenizer, tmp_path, callbacks, gradient_accumulation_steps=2).train()
    tuned.check()
    assert not said


@pytest.mark.parametrize("tuner", ["full", "lora", "bias"])
def test_no_false_alarm_in_our_own_training(tuner, said):
    model, tuned, rows, collate = fresh(TUNERS[tuner])
    settings = TrainSettings(epochs=1, learning_rate=1e-3)
    train(model, rows, collate, settings, None, callbacks=[wt.EngagementCallback(tuned)])
    assert not said


def test_a_parameter_that_no_optimizer_holds_is_found_before_the_first_step(tmp_path, said):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1,))))
    optimizer = AdamW(model.classifier.parameters(), lr=1e-3)
    made = trainer(model, tokenizer, tmp_path, [wt.EngagementCallback(tuned)], optimizer)
    with pytest.raises(EngagementError, match=r"the optimizer lacks bert\.encoder\.layer\.1\..* and \d+ more, which"):
        made.train()
    assert made.state.global_step == 0 and not said
    trainer(model, tokenizer, tmp_path, [wt.EngagementCallback(tuned, stop=False)], optimizer).train()
    assert len(said) == 1 and "the optimizer lacks" in said[0]


def test_a_layer_without_a_gradient_is_found_after_the_first_step(tmp_path, said):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1, 2))))
    model.bert.encoder.layer[2].requires_grad_(False)  # somebody's later freeze
    optimizer = AdamW(tuned.trainable.values(), lr=1e-3)
    made = trainer(model, tokenizer, tmp_path, [wt.EngagementCallback(tuned)], optimizer, gradient_accumulation_steps=2)
    with pytest.raises(
        EngagementError, match=r"no gradient reached layer 2 in the first step: bert\.encoder\.layer\.2"
    ):
        made.train()
    assert made.state.global_step == 0 and not said  # Trainer counts a step when it is over


def test_what_lacks_a_gradient_in_a_layer_that_has_one_is_a_warning(tmp_path, said):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1, 2))))
    model.bert.encoder.layer[2].output.dense.bias.requires_grad_(False)
    trainer(
        model, tokenizer, tmp_path, [wt.EngagementCallback(tuned)], AdamW(tuned.trainable.values(), lr=1e-3)
    ).train()
    assert len(said) == 1 and "reached bert.encoder.layer.2.output.dense.bias in the first step" in said[0]


@pytest.mark.parametrize("options", [{"fsdp": "full_shard"}, {"optim": "galore_adamw_layerwise"}])
def test_gradients_that_are_not_the_parameters_own_are_not_looked_at(options):
    _, tuned, *_ = fresh()
    arguments = type("Arguments", (), {"deepspeed": None, "fsdp": None, "optim": "adamw_torch", **options})()
    callback = wt.EngagementCallback(tuned)
    callback.on_train_begin(arguments, None, None, optimizer=AdamW([torch.nn.Parameter(torch.ones(1))]))
    callback.on_optimizer_step(arguments, None, None)
