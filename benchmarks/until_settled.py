"""How often `--until-settled` agrees with the full pass, and after how many samples: many orders of one data set.

    python benchmarks/until_settled.py FILE [--orders 100] [--max-samples N] [--bound asymptotic|betting]

Scores every text once with MiniLM, then replays the looks of `score --until-settled` in each random order.
"""

import argparse
from collections import Counter
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

import wheretune as wt
from wheretune.data.batches import collator, length_batches
from wheretune.data.tokens import encode
from wheretune.demo import model_folder
from wheretune.model.finding import find_layers
from wheretune.model.states import States
from wheretune.records.scores import Reading
from wheretune.scorers.base import Finished
from wheretune.scorers.sums import mean_of_others
from wheretune.scoring.confidence import Settler
from wheretune.scoring.reading import LOOK_EVERY
from wheretune.scoring.states import stream_states

BATCH = 32


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("file")
    options.add_argument("--orders", type=int, default=100)
    options.add_argument("--max-samples", type=int)
    options.add_argument("--bound", choices=("asymptotic", "betting"), default="asymptotic")
    chosen = options.parse_args()
    torch.set_num_threads(2)
    scores = per_text(wt.load_data(wt.DataSpec(chosen.file, max_samples=chosen.max_samples), labels="ignored"))
    print(f"{chosen.file}: {len(scores)} texts, means {np.round(scores.mean(0), 4)}")
    for selector in (wt.BlockHighest(2), wt.Highest(2), wt.Lowest(2)):
        whole = selector.select(scores.mean(0))
        said = [replay(scores, selector, seed, chosen.bound) for seed in range(chosen.orders)]
        settled = [settlement for settlement in said if settlement.settled]
        agree = sum(settlement.layers == whole for settlement in settled)
        samples = sorted(settlement.n_samples for settlement in settled)
        print(
            f"  {wt.Spec.of(selector)}: whole pass {whole}; settled in {len(settled)} of {len(said)} orders, "
            f"{agree} of these as the whole pass; samples read: "
            f"median {samples[len(samples) // 2] if samples else 0}, "
            f"most {samples[-1] if samples else '-'}"
        )
        ties = Counter(pair for settlement in said if not settlement.settled for pair in settlement.open)
        if ties:
            print(f"    not settled, too close to tell: {dict(ties)}")


def per_text(data: wt.TextData) -> np.ndarray:
    """Texts x layers: each text's own cosine centralities, in the order of the data."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    stack = find_layers(AutoModel.from_pretrained(model_folder()).eval())
    rows = [None] * len(data)
    batches = length_batches(encode(data, tokenizer, 128), BATCH)
    for states in stream_states(stack, batches, collator(tokenizer), Reading(BATCH)):
        layers = torch.nn.functional.normalize(states.tokens[:, 1:], dim=-1)
        for row, values in zip(states.sample_ids, mean_of_others((layers @ layers.mT).double()).numpy(), strict=True):
            rows[data.rows.index(row)] = values
    return np.array(rows)


def replay(scores: np.ndarray, selector: wt.BlockHighest, seed: int, bound: str):
    """What would have been said, and when, reading the texts in this order."""
    ordered = scores[np.random.default_rng(seed).permutation(len(scores))]
    known = SimpleNamespace(bounds=wt.CosineCentrality.bounds, per_text=lambda states: states.tokens[:, :, 0])
    watch = Settler(selector, bound=bound).watch(known, len(scores))
    looks = [*range(LOOK_EVERY * BATCH, len(ordered), LOOK_EVERY * BATCH), len(ordered)]
    for n in looks:
        part, new = ordered[:n], torch.tensor(ordered[(n - 1) // (LOOK_EVERY * BATCH) * LOOK_EVERY * BATCH : n])
        watch.see(States(new.unsqueeze(2), tuple(range(len(new))), None, {}))
        said = watch.look(Finished(part.mean(0), part.std(0), covariance=np.cov(part.T, bias=True)), n)
        if said.settled:
            break
    return said


if __name__ == "__main__":
    main()
