"""`evaluate --lm-eval`: a tuned language model on the tasks of EleutherAI's lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from wheretune.cli.groups import Group, group, needed, option
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from wheretune.delta.opening import Finetuned
    from wheretune.heads.top import TopModel


@group
class TaskOptions(Group):
    """Which tasks of lm-eval."""

    panel: ClassVar[str] = "Data"
    lm_eval: Annotated[
        str | None,
        option(
            "--lm-eval",
            "Tasks of lm-eval by name with commas between them, their YAML files, or folders of these. Their data may "
            "be fetched from the hub. Needs `pip install 'wheretune\\[eval]'`.",
            default="none",
            metavar="TASKS",
        ),
    ] = None
    lm_eval_include: Annotated[
        list[str] | None,
        option(
            "--lm-eval-include",
            "Folder with tasks of your own, which --lm-eval then knows by name; may be repeated.",
            default="none",
            metavar="FOLDER",
        ),
    ] = None
    limit: Annotated[
        float | None,
        option("--limit", "As in lm-eval: documents of each task, or below 1 the share of them.", default="all"),
    ] = None

    @property
    def names(self) -> list[str]:
        """The tasks that are asked for.

        Raises:
            ConfigError: None is named, or options stand here that say nothing without any.
        """
        names = [name.strip() for name in (self.lm_eval or "").split(",") if name.strip()]
        if self.lm_eval is not None and not names:
            raise ConfigError("--lm-eval names no task", "give one or more, such as hellaswag,arc_easy")
        if not names and (self.lm_eval_include or self.limit is not None):
            flag = "--limit" if self.limit is not None else "--lm-eval-include"
            raise ConfigError(f"{flag} has no effect without tasks of lm-eval", "leave it out, or give --lm-eval")
        if self.limit is not None and not (0 < self.limit < 1 or (self.limit >= 1 and self.limit.is_integer())):
            raise ConfigError(f"--limit is {self.limit:g}", "give a whole number of documents, or a share below 1")
        return list(dict.fromkeys(names))

    def check(self, data: str | None, of_data: bool) -> None:
        """Sees that there is something to measure on.

        Args:
            data: What --data names.
            of_data: Whether options were given that say nothing without it.

        Raises:
            ConfigError: There is nothing, or an option has no effect.
        """
        if not self.names:
            needed(data, "--data")
        elif data is None and of_data:
            raise ConfigError(
                "--metric, --also and columns have no effect without --data", "leave them out, or give it"
            )

    def loaded(self, folder: Path) -> list[Any]:
        """The tasks that are asked for, with their data; refused before a model is opened.

        Args:
            folder: What `wheretune tune` wrote.

        Raises:
            ConfigError: What was tuned is no language model.
        """
        names = self.names
        if not names:
            return []
        from wheretune import catalog
        from wheretune.delta.folder import local_folder, read_manifest
        from wheretune.lm_evaluation import load_tasks

        head = read_manifest(local_folder(folder))["plan"]["head"]["name"]
        if not catalog.find("head", head).speaks:
            raise ConfigError(
                f"--lm-eval asks a language model, and {folder} is none (its head is {head})",
                "measure it on labelled data by --data",
            )
        return load_tasks(names, self.lm_eval_include or ())

    def judged(
        self, tuned: Finetuned, untouched: TopModel | None, tasks: Sequence[Any], batch_size: int
    ) -> dict[str, Any]:
        """The numbers of a tuned model as JSON, and of its base where that is given."""
        from wheretune.lm_evaluation import judge_on_tasks

        tuned.let_masters_go()  # as a merged model would be
        models = {"metrics": tuned.model.stack.model} | ({} if untouched is None else {"base": untouched.stack.model})
        found = {
            name: judge_on_tasks(model, tuned.tokenizer, tasks, batch_size, self.limit)
            for name, model in models.items()
        }
        content: dict[str, Any] = {name: [asdict(one) for one in every] for name, every in found.items()}
        return content | {"limit": self.limit}


def measured(folder: Path, content: dict[str, Any]) -> Any:
    """A table of what lm-eval found."""
    from wheretune.show.tables import table

    directions = {True: "higher", False: "lower", None: ""}
    before = content.get("base")
    rows = []
    for i, one in enumerate(content["metrics"]):
        metric = one["metric"] if one["filter"] == "none" else f"{one['metric']} ({one['filter']})"
        base = [] if before is None else [_figure(before[i]["value"])]
        n = "" if one["n"] is None else str(one["n"])
        better = directions[one["higher_is_better"]]
        rows.append((one["task"], metric, _figure(one["value"]), _figure(one["stderr"]), *base, n, better))
    columns = ("task", "metric", "value", "stderr", *([] if before is None else ["base model"]), "n", "better")
    return table(f"{folder} on tasks of lm-eval", columns, rows, left=("task", "metric", "better"))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
