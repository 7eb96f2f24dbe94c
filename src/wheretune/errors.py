"""The errors a user can meet: each says what is wrong and what to do about it, in one line.

The command line prints the message and exits with code 2; everything that is not a
`WheretuneError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class WheretuneError(Exception):
    """Something the user can mend.

    Args:
        problem: What is wrong, naming the culprit (file, row, layer, option).
        remedy: What to do about it.
        field: The setting that it is about, where it is about one; a command line spells its option.
    """

    def __init__(self, problem: str, remedy: str, field: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        self.field = field
        super().__init__(f"{problem}; {remedy}")

    def __reduce__(self) -> tuple[type[WheretuneError], tuple[str, str, str | None]]:
        return type(self), (self.problem, self.remedy, self.field)  # another process may have met it


class ConfigError(WheretuneError):
    """An option, or a key of a config file, that cannot be used."""


class ModelError(WheretuneError):
    """A model that cannot be loaded, or whose layers cannot be found."""


class DataError(WheretuneError):
    """Data that cannot be read, or that makes no task."""


class ScoreError(WheretuneError):
    """Scores that cannot be computed (a state that is not finite, a single layer)."""


class PlanError(WheretuneError):
    """A plan that selects nothing, names a missing layer or belongs to another model."""


class TrainingError(WheretuneError):
    """Training that came to nothing: weights or outputs that are not finite."""


class EngagementError(WheretuneError):
    """Training changed something else than the plan names, or did not change what it names."""


class DeltaError(WheretuneError):
    """A saved delta that is incomplete or does not fit the base model."""


class MergeError(WheretuneError):
    """A tuned model that no plain checkpoint can hold."""


class OutputError(WheretuneError):
    """A place to write to that is already taken or cannot be written."""


class UnavailableError(WheretuneError):
    """What cannot be had on this machine: a program or a package is missing."""


class ProcessError(WheretuneError):
    """Another process of the same run is gone, or never came."""
