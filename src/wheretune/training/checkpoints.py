"""The checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = "checkpoint"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first; each is whole."""
    return sorted(folder.glob(f"{CHECKPOINT}-*"), key=lambda path: int(path.name.split("-")[-1]))
