"""pass@1 of Chen et al. 2021: whether generated code passes its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from wheretune.errors import ConfigError
from wheretune.support.progress import progress
from wheretune.support.sandbox.running import Limits, runs_through

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

    from wheretune.metrics.base import Predictions

FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


class Problem(NamedTuple):
    """What code is held against, as HumanEval has it.

    Attributes:
        prompt: The beginning of the code, which the output goes on with.
        test: Defines `check(candidate)`.
        entry_point: The name of the function that is checked.
    """

    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class PassAtOne:
    """The share of outputs that, after their prompt, make code that passes the problem's tests: HumanEval's pass@1.

    The code runs in a sandbox, one output after the other, and only where `run_generated_code` allows it.

    Decided:
    - The program is prompt, output, test, then `check(entry_point)`. Nothing is cut off the output; only of one with
      a fenced block (```` ```python ````) the first block alone is taken.
    - The code sees Python's standard library alone.
    - An empty output is wrong, also where the prompt alone would pass.

    Attributes:
        run_generated_code: Whether it may be run at all.
        without_isolation: Whether it may run where the system cannot keep it from network and files, or need not.
        seconds: Processor time of each program.
        megabytes: Memory of each program.
    """

    name: ClassVar[str] = "pass-at-1"
    reads: ClassVar[str] = "code"
    higher_is_better: ClassVar[bool] = True

    run_generated_code: bool = False
    without_isolation: bool = False
    seconds: int = 10
    megabytes: int = 1024

    def __post_init__(self) -> None:
        for field, least in (("seconds", 1), ("megabytes", 64)):
            if getattr(self, field) < least:
                raise ConfigError(f"{field} is {getattr(self, field)}", f"give {least} or more", field)

    def compute(self, predictions: Predictions, truth: Shaped[np.ndarray, " row"]) -> float | None:
        if not self.run_generated_code:
            raise ConfigError(
                "pass-at-1 runs the generated code, which is not allowed", "allow it (run_generated_code)"
            )
        limits = Limits(self.seconds, self.megabytes)
        rows = list(zip(predictions.kinds["code"].tolist(), truth.tolist(), strict=True))
        with progress() as shown:
            passed = [
                bool(output.strip()) and runs_through(program(output, problem), limits, not self.without_isolation)
                for output, problem in shown.track(rows, description="running code")
            ]
        return sum(passed) / len(passed)


def program(output: str, problem: Problem) -> str:
    """The whole program that tells whether an output is right."""
    fenced = FENCED.search(output)
    return "\n".join(
        (problem.prompt + (fenced[1] if fenced else output), problem.test, f"check({problem.entry_point})", "")
    )
