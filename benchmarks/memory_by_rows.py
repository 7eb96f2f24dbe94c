"""Peak memory of scoring and tuning against the number of rows, each in a process of its own.

    python benchmarks/memory_by_rows.py 10000 100000 1000000

Rows are made up, as long as those of SST-2 (9 words in the mean); the model is a tiny BERT made on the spot, so that
what grows is the data. `encoded` only reads and tokenises.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"w{number}" for number in range(5000)]
STEPS = ("read", "encoded", "scored", "tuned")


def model(folder: Path) -> None:
    """A tiny BERT and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=64).save_pretrained(folder)
    sizes = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
    BertModel(BertConfig(vocab_size=len(known), **sizes)).save_pretrained(folder)


def data(path: Path, rows: int) -> None:
    """Rows of two classes."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            text = " ".join(draw.choices(WORDS, k=min(1 + int(draw.expovariate(1 / 8.4)), 50)))
            file.write(json.dumps({"text": text, "label": ("bad", "good")[number % 2]}) + "\n")


def measure(what: str, folder: Path, train: Path) -> None:
    """Does one step and prints the peak in MB and the seconds."""
    from wheretune.pipeline import score, tune
    from wheretune.records.base import Spec
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.runs import CacheSettings, RunSpec, TrainSettings
    from wheretune.records.scores import Reading
    from wheretune.session import Session
    from wheretune.tasks.base import task_of

    session, spec, texts = Session(shared=False), ModelSpec(str(folder)), DataSpec(str(train), max_length=64)
    opened, began = session.model(spec), time.perf_counter()
    found = session.data(texts)
    if what == "encoded":
        _kept = task_of(found.info).encode(found, opened.tokenizer, 64)
    elif what == "scored":
        score(spec, texts, [Spec("cosine-centrality")], Reading(batch_size=256), session=session)
    elif what == "tuned":
        settings = TrainSettings(max_steps=20, batch_size=32, learning_rate=1e-3)
        run = RunSpec(model=spec, train=texts, selector=Spec("top", {"k": 2}), settings=settings)
        tune(run, train.parent / "run", session=session, cache=CacheSettings("off"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - began}))


def main() -> None:
    """A table: MB of peak memory, and seconds."""
    if sys.argv[1] in STEPS:
        measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
        return
    print("| rows | " + " | ".join(STEPS) + " |\n|" + " ---: |" * (1 + len(STEPS)))
    for rows in map(int, sys.argv[1:]):
        cells = []
        for what in STEPS:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                model(folder / "model")
                data(folder / "train.jsonl", rows)
                command = [sys.executable, __file__, what, str(folder / "model"), str(folder / "train.jsonl")]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            try:
                found = json.loads(done.stdout.splitlines()[-1])
            except (IndexError, ValueError):
                sys.exit(done.stderr)
            cells.append(f"{found['peak']:.0f} MB, {found['seconds']:.0f} s")
        print(f"| {rows:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
