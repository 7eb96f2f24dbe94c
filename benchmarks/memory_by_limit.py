"""Peak memory of `wheretune score` on a checkpoint of 2 GB, without and with a limit, each in a process of its own.

    python benchmarks/memory_by_limit.py none 1GB

The checkpoint is a Llama with random weights in fp32, made in the system's temporary folder and deleted afterwards.
Peak memory is all that the process held at once, Python, torch and memory-mapped files included. The scores must be
the same.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"w{number}" for number in range(1000)]
SIZES = dict(hidden_size=1536, intermediate_size=4096, num_hidden_layers=18, num_attention_heads=12)
ROWS = 8
SCORERS = "cosine-centrality,io-cosine"


def make(folder: Path) -> None:
    """The checkpoint, its tokenizer, and rows of two classes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    known = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(vocab_size=len(known), **SIZES)).save_pretrained(folder, max_shard_size="500MB")
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(WORDS, k=8)), "label": ("bad", "good")[row % 2]} for row in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def measured(folder: Path, limit: str) -> tuple[list[object], str]:
    """The scores, and a row of the table."""
    output = folder / f"scores-{limit}.json"
    command = [
        sys.executable,
        "-m",
        "wheretune",
        "score",
        "--model",
        str(folder),
        "--train",
        str(folder / "rows.jsonl"),
    ]
    command += ["--scorer", SCORERS, "--batch-size", "4", "--output", str(output)]
    command += [] if limit == "none" else ["--memory-limit", limit]
    began, said = time.perf_counter(), folder / "said"
    with said.open("w") as errors:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(running.pid, 0)
    if status:
        sys.exit(said.read_text())
    notes = [line for line in said.read_text().splitlines() if "weights" in line]
    scores = [one["layers"] for one in json.loads(output.read_text())["scores"]]
    peak, took = usage.ru_maxrss / 1000 * 1.024, time.perf_counter() - began
    return scores, f"| {limit} | {peak:,.0f} MB | {took:.0f} s | {' '.join(notes).replace(str(folder), 'DIR')} |"


def main() -> None:
    """A table with one row for each limit."""
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)  # a child's peak begins with its parent's, so another process makes what is large
        subprocess.run([sys.executable, __file__, "make", name], check=True, stderr=subprocess.DEVNULL)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"checkpoint: {size / 1e9:.2f} GB\n\n| limit | peak memory | seconds | it said |")
        print("| --- | ---: | ---: | --- |")
        found = []
        for limit in sys.argv[1:]:
            scores, row = measured(folder, limit)
            found.append(scores)
            print(row, flush=True)
        print(f"\nthe same scores, to the last digit: {all(scores == found[0] for scores in found)}")


if __name__ == "__main__":
    main()
