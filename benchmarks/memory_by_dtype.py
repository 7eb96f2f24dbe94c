"""What it takes to score a model held in fp32 and in bf16: peak memory and seconds, and how far the scores differ.

    python benchmarks/memory_by_dtype.py MODEL --train FILE [--samples 300] [--batch-size 16] [--scorer SCORER]

Each precision is scored in a process of its own. Its peak memory is that of the whole process, and what it grew beyond
the imports; on CUDA both are the device's. The scores' difference is to be read beside the smallest gap between
neighbouring layers: where it is larger, their order may be another.
"""

import argparse
import json
import subprocess
import sys
import time

import psutil
import torch
from rich.console import Console

import wheretune as wt
from wheretune import catalog
from wheretune.pipeline import score
from wheretune.records.model import ModelSpec
from wheretune.records.scores import Reading
from wheretune.show.tables import table
from wheretune.support.provenance import peak_memory
from wheretune.support.words import size

DTYPES = ("fp32", "bf16")
CHILD = "--dtype"  # how a process of one precision is started


def measure(chosen: argparse.Namespace) -> dict[str, object]:
    """Scores in one precision."""
    import transformers.modeling_utils  # noqa: F401 - a library that is opened late, and no memory of the model's

    torch.set_num_threads(2)
    before = 0 if torch.cuda.is_available() else psutil.Process().memory_info().rss
    data = wt.DataSpec(chosen.train, max_samples=chosen.samples)
    scorer, reading = catalog.read("scorer", chosen.scorer), Reading(chosen.batch_size)
    started = time.perf_counter()
    with peak_memory() as memory:
        scores = score(ModelSpec(chosen.model, dtype=chosen.dtype), data, [wt.Spec.of(scorer)], reading)[0]
    return {
        "peak": memory["peak"],
        "growth": memory["peak"] - before,
        "seconds": time.perf_counter() - started,
        "scores": scores.values.tolist(),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--train", required=True, metavar="FILE")
    options.add_argument("--samples", type=int, default=300)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--scorer", default="cosine-centrality")
    options.add_argument(CHILD, choices=DTYPES, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.dtype is not None:
        print("\n" + json.dumps(measure(chosen)))
        return
    found = {}
    for dtype in DTYPES:
        done = subprocess.run([sys.executable, *sys.argv, CHILD, dtype], stdout=subprocess.PIPE, text=True, check=True)
        found[dtype] = json.loads(done.stdout.strip().splitlines()[-1])
    full, half = (found[dtype] for dtype in DTYPES)
    rows = [(dtype, size(one["peak"]), size(one["growth"]), f"{one['seconds']:.1f} s") for dtype, one in found.items()]
    rows.append(("bf16 / fp32", *(f"{half[name] / full[name]:.2f}" for name in ("peak", "growth", "seconds"))))
    console = Console(width=120)
    console.print(
        table(f"scoring {chosen.model}", ("held in", "peak", "beyond imports", "time"), rows, left=("held in",))
    )
    difference = max(abs(one - other) for one, other in zip(full["scores"], half["scores"], strict=True))
    gap = min(abs(one - other) for one, other in zip(full["scores"][1:], full["scores"], strict=False))
    print(f"largest difference of a score {difference:.2g}, smallest gap between neighbouring layers {gap:.2g}")


if __name__ == "__main__":
    main()
