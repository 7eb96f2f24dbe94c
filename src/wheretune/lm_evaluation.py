"""A language model in memory + tasks of EleutherAI's lm-eval -> their metrics, as lm-eval itself gives them.

Tasks are loaded, with their data, before any model is opened, so that a mistake in a name is seen at once. lm-eval is
an extra (`pip install 'wheretune[eval]'`) and takes seconds to open: it is imported where it is used, and torch too.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError, DataError, UnavailableError
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from torch import nn

CHATTY = ("lm_eval", "huggingface_hub", "datasets")  # loggers that speak of what is no matter of the user's
CLOSE = 0.5  # how alike two names must be for one to be offered in place of the other


@dataclass(frozen=True)
class TaskMetric:
    """One number of one task, or of a group of tasks.

    Attributes:
        task: Its name.
        metric: lm-eval's name of the metric.
        filter: What lm-eval did with the model's answers before it counted; mostly `none`.
        value: None where lm-eval gives no finite number.
        stderr: The standard error; None where lm-eval has none.
        n: Documents that count.
        higher_is_better: None where the task does not say.
    """

    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None
    n: int | None
    higher_is_better: bool | None


def load_tasks(tasks: Sequence[str], include: Sequence[str] = ()) -> list[Any]:
    """Tasks and groups of lm-eval, with their data. What is named may be fetched from the network, and nothing else.

    Args:
        tasks: Names of lm-eval's own (`*` stands for anything), YAML files, or folders, of which every task is meant.
        include: Folders whose tasks have names too; they come before lm-eval's own.

    Raises:
        ConfigError: There is no such task or folder, or the task needs what is not given here.
        DataError: A task, or its data, cannot be loaded.
        UnavailableError: lm-eval is not installed.
    """
    for folder in include:
        if not Path(folder).is_dir():
            raise ConfigError(f"there is no folder {folder}", "give a folder of task files (YAML)", "include")
    with _quietly():
        manager = _manager(tuple(include))
        found = [one for name in tasks for one in _named(manager, name)]
    leaves = _leaves(found)
    if twice := [name for i, name in enumerate(leaves) if name in leaves[:i]]:
        raise ConfigError(f"the task {twice[0]} is named twice", "name it alone or in one group", "tasks")
    return found


def judge_on_tasks(
    model: nn.Module, tokenizer: Any, tasks: Sequence[Any], batch_size: int = 32, limit: float | None = None
) -> tuple[TaskMetric, ...]:
    """What lm-eval measures of a model.

    Args:
        model: A language model of Transformers', with a delta attached or without; it stays as it is.
        tokenizer: The model's.
        tasks: From `load_tasks`; they may be used again.
        batch_size: Requests in a batch.
        limit: As lm-eval's own: documents of each task, or below 1 the share of them. None is all.

    Raises:
        DataError: lm-eval stopped.
        UnavailableError: lm-eval is not installed.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise _missing(error) from error
    with _quietly():
        try:
            own = copy.deepcopy(tokenizer)  # lm-eval gives it a padding token where it has none
            asked = HFLM(pretrained=model, tokenizer=own, batch_size=batch_size)
            found = simple_evaluate(asked, tasks=list(tasks), limit=limit, log_samples=False)
        except Exception as error:  # whatever a task's own code and templates raise
            raise DataError(
                f"lm-eval stopped ({_in_words(error)})", "look at the task's file; out of memory, give a smaller batch"
            ) from error
    return tuple(_metrics(found))


# --- tasks by their names ------------------------------------------------------------------------


@cache
def _manager(include: tuple[str, ...]) -> Any:
    """What knows all tasks by name; it reads some ten thousand files, so it is made once."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise _missing(error) from error
    return TaskManager(include_path=list(include))


def _named(manager: Any, name: str) -> list[Any]:
    """The tasks that one name stands for; a name that lm-eval knows goes before a file or folder."""
    if known := manager.match_tasks([name]):
        return [one for each in known for one in _loaded(manager, each)]
    if Path(name).is_file():
        return _loaded(manager, name)
    if Path(name).is_dir():
        from lm_eval.tasks import TaskManager

        inside = TaskManager(include_path=name, include_defaults=False)
        if within := inside.all_subtasks or inside.all_groups:
            return [one for each in within for one in _loaded(inside, each)]
        raise ConfigError(f"the folder {name} holds no task", "a task is a YAML file with the key task", "tasks")
    close = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=CLOSE)
    raise ConfigError(
        f"lm-eval has no task {name!r}, and there is no such file or folder",
        f"did you mean {close[0]}?" if close else "`lm_eval ls tasks` lists them",
        "tasks",
    )


def _loaded(manager: Any, name: str) -> list[Any]:
    """A task, or the topmost of several that one name stands for.

    Raises:
        ConfigError: It runs code that a model writes, or shows pictures.
        DataError: It cannot be loaded.
    """
    try:
        found = manager.load([name])
    except Exception as error:  # a task is code and templates of its author's
        raise DataError(
            f"lm-eval cannot load the task {name} ({_in_words(error)})",
            "look at the network, where its data must be fetched, or at the task's file",
            "tasks",
        ) from error
    for each, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(
                f"the task {each} runs code that the model writes, outside any sandbox",
                "write the programs by `wheretune predict` and judge them by `wheretune judge --metrics pass-at-1`",
                "tasks",
            )
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"the task {each} shows more than text", "name a task of texts", "tasks")
    groups = found.get("groups", {})
    below = {child for group in groups.values() for child in group.child_names}
    return [one for each, one in {**found["tasks"], **groups}.items() if each not in below]


def _leaves(found: Sequence[Any]) -> list[str]:
    """The names of all tasks, those of groups among them."""
    from lm_eval.api.group import Group

    each = (
        [task.task_name for task in one.get_all_tasks()] if isinstance(one, Group) else [one.task_name] for one in found
    )
    return [name for names in each for name in names]


# --- what lm-eval gives back ---------------------------------------------------------------------


def _metrics(found: dict[str, Any]) -> Iterator[TaskMetric]:
    """The numbers among lm-eval's results, whose keys are `metric,filter` and `metric_stderr,filter`."""
    for task, results in found["results"].items():
        for key, value in results.items():
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                stderr = _finite(results.get(f"{metric}_stderr,{kind}"))
                better = found["higher_is_better"].get(task, {}).get(metric)
                yield TaskMetric(task, metric, kind, _finite(value), stderr, results.get("sample_len"), better)


def _finite(value: Any) -> float | None:
    """A number; None of all else (lm-eval writes N/A)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _in_words(error: Exception) -> str:
    """An error of another's code on one line, with its kind, without which many say nothing."""
    return f"{type(error).__name__}: {first_line(error)}"


def _missing(error: ImportError) -> UnavailableError:
    """What is said where lm-eval, or something that it needs, is not there."""
    return UnavailableError(f"lm-eval cannot be opened ({first_line(error)})", "pip install 'wheretune[eval]'")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps standard output for results alone, and other libraries' notes off the screen; errors still come through."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
