"""Does a tuner of wheretune's do as well as PEFT used by hand? The same data, batches, settings and seed for both.

    python benchmarks/peft_by_hand.py TRAIN TEST [--samples 1000] [--seed 0] [--learning-rate 5e-3]

By hand means: PEFT's own model around MiniLM, a linear map on [CLS], AdamW and a linear schedule in a plain loop, and
nothing of wheretune's but the order of the rows. Prints both accuracies on all of TEST.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

import wheretune as wt
from wheretune.data import EpochBuckets, encode, take
from wheretune.demo import model_folder
from wheretune.run import run
from wheretune.types import RunSpec, TrainSettings

LENGTH, BATCH, EPOCHS = 128, 16, 2


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("train")
    options.add_argument("test")
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--learning-rate", type=float, default=5e-3)
    chosen = options.parse_args()
    torch.set_num_threads(2)
    train = wt.load_data(wt.DataSpec(chosen.train, max_samples=chosen.samples, max_length=LENGTH))
    test = wt.load_data(wt.DataSpec(chosen.test, max_length=LENGTH), like=train.info)
    base, tokenizer = AutoModel.from_pretrained(model_folder()), AutoTokenizer.from_pretrained(model_folder())
    scores = wt.score(base, tokenizer, take(train, range(2)), wt.Depth())
    settings = TrainSettings(EPOCHS, chosen.learning_rate, BATCH, seed=chosen.seed)
    attention = [f"encoder.layer.{i}.attention.self.{name}" for i in range(6) for name in ("query", "value")]
    scaled = [f"encoder.layer.{i}.{name}" for i in range(6) for name in ("attention.self.key", "attention.self.value")]
    down = [f"encoder.layer.{i}.output.dense" for i in range(6)]
    for tuner, config in (
        (wt.LoRA(), LoraConfig(r=16, lora_alpha=32, target_modules=attention)),
        (wt.IA3(), IA3Config(target_modules=scaled + down, feedforward_modules=down)),
    ):
        plan = wt.plan(scores, wt.Explicit(tuple(range(6))), tuner=tuner)
        with tempfile.TemporaryDirectory() as folder:
            result = run(RunSpec(plan, train.info, None, test.info, settings), Path(folder) / "run")
        hand = by_hand(config, tokenizer, train, test, settings)
        print(
            f"{tuner.name}: wheretune {result.metrics['test'][0].value:.4f}, PEFT by hand {hand:.4f} (n = {len(test)})"
        )


def by_hand(config, tokenizer, train: wt.TextData, test: wt.TextData, settings: TrainSettings) -> float:
    base = AutoModel.from_pretrained(model_folder())
    base.pooler = None
    torch.manual_seed(settings.seed)
    model = get_peft_model(base, config)
    torch.manual_seed(settings.seed)
    head = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(384, len(train.info.classes)))
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    rows, held = encode(train, tokenizer, LENGTH), encode(test, tokenizer, LENGTH)
    order = EpochBuckets([len(row["input_ids"]) for row in rows], BATCH, settings.seed)
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, EPOCHS * -(-len(rows) // BATCH))
    torch.manual_seed(settings.seed)
    for epoch in range(EPOCHS):
        order.set_epoch(epoch)
        indices = list(order)
        for start in range(0, len(indices), BATCH):
            logits, labels = forward(model, head, tokenizer, [rows[i] for i in indices[start : start + BATCH]])
            torch.nn.functional.cross_entropy(logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)  # as Trainer does
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval(), head.eval()
    right = []
    with torch.no_grad():
        for start in range(0, len(held), 64):
            logits, labels = forward(model, head, tokenizer, held[start : start + 64])
            right += (logits.argmax(1) == labels).tolist()
    return float(np.mean(right))


def forward(model, head, tokenizer, rows):
    inputs = [{key: value for key, value in row.items() if key not in ("labels", "row")} for row in rows]
    batch = tokenizer.pad(inputs, padding=True, return_tensors="pt")
    return head(model(**batch)[0][:, 0]), torch.tensor([row["labels"] for row in rows])


if __name__ == "__main__":
    main()
