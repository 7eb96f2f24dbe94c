"""Models as users bring them, planned for and trained by an unmodified Trainer."""

import torch
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences


def own_model(family="bert", seed=0):
    """A classifier such as a user brings, with its tokenizer, on the weights of `tiny_model`."""
    base, tokenizer = tiny_model(family, seed=seed)
    base.config.num_labels, base.config.pad_token_id = 2, tokenizer.pad_token_id
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(base.config)
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    return model, tokenizer


def planned(model, tokenizer, selector, **axes):
    data = wt.from_texts(sentences(12), [i % 2 for i in range(12)])
    return wt.plan(wt.score(model, tokenizer, data, wt.CosineCentrality()), selector, **axes)


def train(model, tokenizer, folder, **options):
    rows = [{**tokenizer(text), "labels": i % 2} for i, text in enumerate(sentences(16))]
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
        save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer)).train()
