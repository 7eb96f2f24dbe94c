"""How long commands take that compute nothing, beside importing numpy, pydantic and typer alone.

    python benchmarks/startup.py [--runs 7]

Every command runs in processes of its own, each after one that imports these three; the median of the ratios counts. A
ratio above 2 is marked, and the exit code is then 1.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
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


def seconds(code: list[str]) -> float:
    """Processor seconds of one process of its own; `seconds` of a clock would count what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Traceback" not in done.stderr, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
        seconds(["-c", ALONE])  # the first one fills the disk's cache
        slow = 0
        for command in commands:
            code = ["-m", "wheretune", *command]
            seconds(code)
            pairs = [(seconds(["-c", ALONE]), seconds(code)) for _ in range(runs)]
            ratio = statistics.median(taken / alone for alone, taken in pairs)
            slow += ratio > MOST
            words = " ".join(["wheretune", *command]).replace(place, "DIR")
            median = statistics.median(taken for _, taken in pairs)
            print(f"{median:.3f} s  {ratio:.2f}x  {words}" + (f"  above {MOST:g}" if ratio > MOST else ""))
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
