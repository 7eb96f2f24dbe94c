"""Does a tuner of wheretune's do as PEFT used by hand does? The same data, batches, settings and seed for both.

    python benchmarks/peft_by_hand.py TRAIN TEST [--samples 1000] [--seed 0] [--learning-rate 5e-3] [--pair-column C]

By hand means: PEFT's own model around MiniLM, a linear map on [CLS], and Transformers' own Trainer, which is only told
the order of the rows. Frozen layers drop out and the last layer computes all tokens, as there, so that both draw
the same dropout. Prints both accuracies on all of TEST; they should be the same number.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModel, DataCollatorWithPadding, Trainer, TrainingArguments

import wheretune as wt
from wheretune.data.samplers import EpochBuckets
from wheretune.data.tokens import encode
from wheretune.demo import model_folder
from wheretune.pipeline import tune
from wheretune.records.model import ModelSpec
from wheretune.session import Session

LENGTH, BATCH, EPOCHS = 128, 16, 2


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("train")
    options.add_argument("test")
    options.add_argument("--text-column", default="text")
    options.add_argument("--pair-column")
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--learning-rate", type=float, default=5e-3)
    chosen = options.parse_args()
    torch.set_num_threads(2)
    task = wt.Spec("auto", {"text_column": chosen.text_column, "pair_column": chosen.pair_column})
    held = wt.DataSpec(chosen.test, task, max_length=LENGTH)
    spec = wt.RunSpec(
        model=ModelSpec(model_folder()),
        train=wt.DataSpec(chosen.train, task, max_samples=chosen.samples, max_length=LENGTH),
        test=held,
        settings=wt.TrainSettings(
            EPOCHS,
            chosen.learning_rate,
            BATCH,
            warmup_ratio=0.0,
            seed=chosen.seed,
            frozen_dropout=True,
            all_tokens=True,
        ),
    )
    session = Session()
    opened, train = session.model(spec.model), session.data(spec.train)
    test = session.data(held, like=train.info)
    attention = [f"encoder.layer.{i}.attention.self.{name}" for i in range(6) for name in ("query", "value")]
    scaled = [f"encoder.layer.{i}.{name}" for i in range(6) for name in ("attention.self.key", "attention.self.value")]
    down = [f"encoder.layer.{i}.output.dense" for i in range(6)]
    for tuner, config in (
        (wt.LoRA(), LoraConfig(r=16, lora_alpha=32, target_modules=attention)),
        (wt.DoRA(), LoraConfig(r=16, lora_alpha=32, target_modules=attention, use_dora=True)),
        (wt.PiSSA(), LoraConfig(r=16, lora_alpha=16, target_modules=attention, init_lora_weights="pissa")),
        (wt.IA3(), IA3Config(target_modules=scaled + down, feedforward_modules=down)),
    ):
        plan = wt.plan(opened.info, wt.Explicit(tuple(range(6))), tuner=tuner, data=train.info)
        with tempfile.TemporaryDirectory() as folder:
            result = tune(replace(spec, plan=plan), Path(folder) / "run", session=session)
        hand = by_hand(config, opened.tokenizer, train, test, spec.settings)
        print(
            f"{tuner.name}: wheretune {result.metrics['test'][0].value:.4f}, PEFT by hand {hand:.4f} (n = {len(test)})"
        )


class WithHead(torch.nn.Module):
    """PEFT's model and a linear map on [CLS]."""

    def __init__(self, model, classes: int, seed: int) -> None:
        super().__init__()
        self.model = model
        torch.manual_seed(seed)
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(384, classes))

    def forward(self, labels=None, **inputs):
        """Loss and logits."""
        logits = self.head(self.model(**inputs)[0][:, 0])
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Ordered(Trainer):
    """Trainer with the rows in the order that wheretune takes them."""

    def _get_train_sampler(self, train_dataset=None):
        return EpochBuckets([len(row["input_ids"]) for row in self.train_dataset], BATCH, self.args.seed)


def by_hand(config, tokenizer, train: wt.TextData, test: wt.TextData, settings: wt.TrainSettings) -> float:
    base = AutoModel.from_pretrained(model_folder())
    base.pooler = None
    torch.manual_seed(settings.seed)
    model = WithHead(get_peft_model(base, config), len(train.info.classes), settings.seed)
    rows, held = (
        [{k: v for k, v in row.items() if k != "row"} for row in encode(data, tokenizer, LENGTH)]
        for data in (train, test)
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay, adam_beta1=settings.betas[0], adam_beta2=settings.betas[1],
            optim="adamw_torch_fused", seed=settings.seed, data_seed=settings.seed, save_strategy="no",
            report_to="none", disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
            dataloader_pin_memory=False,
        )  # fmt: skip
        collate = DataCollatorWithPadding(tokenizer)
        trainer = Ordered(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        trainer.train()
        found = trainer.predict(held)
    return float(np.mean(found.predictions.argmax(1) == found.label_ids))


if __name__ == "__main__":
    main()
