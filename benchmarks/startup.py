"""How long commands take that compute nothing, beside importing numpy, pydantic and typer alone.

    python benchmarks/startup.py [--runs 7]

Every command runs in a process of its own; the median counts. A ratio above 2 is marked, and the exit code is then 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALONE = "import numpy, pydantic, typer"
MOST = 2.0  # times as long as `ALONE`
LAYERS = 6


def scores(folder: Path) -> Path:
    """A file of scores of a model that is nowhere."""
    maps = {"attention.query": [8, 8], "attention.value": [8, 8], "output.dense": [8, 8]}
    parts = {"maps": maps, "query": "attention.query", "value": "attention.value", "heads": 2, "biases": 24}
    layer = {"parameters": 216, "parts": parts}
    numbers = [0.1, 0.5, 0.3, 0.9, 0.2, 0.4]
    content = {
        "scorer": {"name": "cosine-centrality", "params": {}},
        "model": {
            "spec": {"name": "nowhere/model"},
            "hash": "0" * 64,
            "layers": [{"index": i, "path": f"encoder.layer.{i}", **layer} for i in range(LAYERS)],
            "hidden_size": 8,
            "parameters": 2000,
            "causal": False,
        },
        "data": {
            "spec": {"source": "train.jsonl"},
            "rows": 100,
            "task": {"name": "classification", "params": {}},
            "classes": ["bad", "good"],
            "hash": "0" * 64,
        },
        "reading": {},
        "n_samples": 100,
        "layers": [{"index": i, "score": number, "std": 0.1} for i, number in enumerate(numbers)],
        "similarity": None,
        "covariance": [[0.01 if i == j else 0.0 for j in range(LAYERS)] for i in range(LAYERS)],
        "settlement": None,
        "seconds": 1.0,
        "versions": {},
        "tokens": 20.0,
        "format": 2,
    }
    path = folder / "scores.json"
    path.write_text(json.dumps(content))
    return path


def seconds(code: list[str], runs: int) -> float:
    """The median time of a process of its own."""
    taken = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *code], capture_output=True, text=True)
        taken.append(time.perf_counter() - began)
        assert "Traceback" not in done.stderr, done.stderr
    return statistics.median(taken[1:])  # the first one fills the disk's cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="processes per command")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        given, plan = str(scores(folder)), str(folder / "plan.json")
        commands = [
            ["--version"],
            ["--help"],
            ["tune", "--help"],
            ["scorers"],
            ["selectors"],
            ["tuners"],
            ["plan", given, "--k", "2", "--tuner", "lora:r=8", "--output", plan],
            ["cost", "--plan", plan, "--epochs", "5"],
            ["export", plan, "--to", "axolotl"],
            ["plan", given, "--k", "99"],
            ["tune", "--model", "/no/model", "--train", "x", "--output", str(folder / "run")],
            ["evaluate", place, "--data", "x"],
        ]
        alone = seconds(["-c", ALONE], runs)
        print(f"{alone:.3f} s  1.00x  {ALONE}")
        slow = 0
        for command in commands:
            taken = seconds(["-m", "wheretune", *command], runs)
            slow += taken > MOST * alone
            mark = f"  above {MOST:g}" if taken > MOST * alone else ""
            words = " ".join(["wheretune", *command]).replace(place, "DIR")
            print(f"{taken:.3f} s  {taken / alone:.2f}x  {words}{mark}")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
