"""Running the command line in this process, and its one-line errors."""

from pathlib import Path

SOURCE = str(Path(__file__).parents[2] / "src")  # a process of its own must run this checkout, wherever it lies


FAST = ("--epochs", 1, "--learning-rate", "1e-3", "--batch-size", 8)


def one_line(code, err, *words):
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    for word in words:
        assert word in lines[0], lines[0]
