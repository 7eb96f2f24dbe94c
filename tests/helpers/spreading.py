"""An executor that stands in for a cluster, what a comparison leaves but for times, and works that misbehave."""

import json
import os
import pickle
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wheretune.errors import DataError
from wheretune.support.executors.base import Lost
from wheretune.support.log import log

MEASURED = ("seconds", "peak_memory_bytes", "provenance")


@dataclass(frozen=True)
class StandIn:
    """The last job first, each by a copy of the work, as in a process of its own; a job that is named is lost."""

    lost: str = ""
    name: ClassVar[str] = "stand-in"
    log: ClassVar[list[str]] = []

    @contextmanager
    def started(self, folder, opens):
        StandIn.log[:] = [f"started in {folder}"]
        yield self
        StandIn.log.append("ended")

    def run(self, work, jobs):
        copy = pickle.loads(pickle.dumps(work))
        for job in reversed(jobs):
            StandIn.log.append(str(job))
            lost = self.lost and self.lost in str(job)
            yield job, Lost("the power failed") if lost else pickle.loads(pickle.dumps(copy(job)))


def left_in(folder):
    """By name what a comparison or a scoring pass has left in a folder; of JSON without what was measured."""
    left = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            left[name] = json.dumps(unmeasured(json.loads(path.read_text())), indent=2)
        elif path.is_file():
            left[name] = path.read_bytes() if name not in ("table.md", "results.csv") else "times and memory"
    return left


def unmeasured(content):
    if isinstance(content, dict):
        return {key: unmeasured(value) for key, value in content.items() if key not in MEASURED}
    if isinstance(content, str):  # how long a prefix cache took, and how much memory was free then
        return content.partition(", made in ")[0]
    return [unmeasured(one) for one in content] if isinstance(content, list) else content


def dying(job):
    """Tells its process; `always` kills it each time, `once` in the folder behind the colon the first time."""
    word, _, where = job.partition(":")
    if word == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "once" and not (Path(where) / "begun").exists():
        (Path(where) / "begun").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "refused":
        raise DataError("the row 7 has no label", "leave it out", "source")
    if word == "wrong":
        raise ZeroDivisionError("of no use")
    log.warning("done in a worker")
    return os.getpid()
