"""Judges a model while it trains, keeps its best weights, and says when it has not become better for long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.model.sharding import as_held, write_tensors
from wheretune.support.files import write
from wheretune.support.processes import writes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.metrics.base import Measure
    from wheretune.records.runs import Metric, RunSpec
    from wheretune.tasks.base import Task
    from wheretune.training.clock import TrainLog

BEST = "best.safetensors"


@dataclass(frozen=True)
class Judge:
    """What is measured while a model trains.

    Attributes:
        measure: Gives the metrics of the model as it is, on validation data.
        metric: The name of the one that says which weights are best.
        higher_is_better: Which way.
        patience: How many times in a row it may be no better before training stops; None goes on to the end.
    """

    measure: Callable[[], Sequence[Metric]]
    metric: str
    higher_is_better: bool
    patience: int | None = None

    def values(self, history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
        """The (step, value) of every time that Trainer's log tells of."""
        key = f"eval_{self.metric}"
        return [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]

    def best(self, history: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
        """The step with the best value, the earlier of equals, and that value."""
        sign = 1 if self.higher_is_better else -1
        return max(self.values(history), key=lambda one: (sign * one[1], -one[0]), default=None)

    def patient(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether training may go on."""
        best = self.best(history)
        if self.patience is None or best is None:
            return True
        return sum(step > best[0] for step, _ in self.values(history)) < self.patience


class BestWeights:
    """The weights that were best so far: in a run's folder, so that they outlive a stop, or in memory.

    Args:
        folder: The run's; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / BEST
        self._kept: dict[str, Tensor] = {}

    def keep(self, parameters: Mapping[str, Tensor]) -> None:
        """Remembers these, in place of earlier ones."""
        if self._file is None:
            self._kept = {name: value.detach().clone() for name, value in parameters.items()}
        elif writes():
            write(self._file, lambda draft: write_tensors(parameters, draft))
        else:
            write_tensors(parameters, None)

    def restore(self, model: nn.Module) -> None:
        """Gives a model the weights that were kept."""
        kept = self._kept if self._file is None else load_file(self._file)
        own = dict(model.named_parameters())
        for name, value in kept.items():
            own[name].data.copy_(as_held(value, own[name]))


# --- of a run ------------------------------------------------------------------------------------


LOSSES = ("loss", "log-loss", "mse", "label-log-loss")  # metrics that are what a task learns by


def with_loss(spec: RunSpec, task: Task) -> RunSpec:
    """The run with the metric that is the task's loss, where the best weights are to be those of the lowest loss."""
    if spec.settings.metric_for_best_model not in ("loss", "eval_loss"):
        return spec
    measured = {name: catalog.find("metric", name).reads for name in LOSSES}
    loss = next(name for name in LOSSES if measured[name] in task.predicts)
    settings = replace(spec.settings, metric_for_best_model=loss)
    return replace(spec, settings=settings, metrics=tuple(dict.fromkeys((*spec.metrics, loss))))


def decisive_metric(spec: RunSpec, measured: Sequence[Measure]) -> Measure | None:
    """The metric that says which weights are best; None where nothing is judged in training.

    Raises:
        ConfigError: There is no such metric here, or nothing to judge.
    """
    settings = spec.settings
    if settings.eval_strategy == "no":
        return None
    if spec.validation is None:
        raise ConfigError("nothing can be judged in training", "give validation data", "eval_strategy")
    wanted = settings.metric_for_best_model
    names = {one.name: one for one in measured}
    name = measured[0].name if wanted is None else wanted.removeprefix("eval_").replace("_", "-")
    if name not in names:
        remedy = f"take one of {', '.join(names)}, or ask for another (metrics)"
        raise ConfigError(f"there is no metric {wanted!r} here", remedy, "metric_for_best_model")
    return names[name]


def judge_of(spec: RunSpec, decisive: Measure | None, measure: Callable[[], Any]) -> Judge | None:
    """What is measured in training."""
    if decisive is None:
        return None
    return Judge(measure, decisive.name, decisive.higher_is_better, spec.settings.early_stopping_patience)


def kept_weights(trained: TrainLog, decisive: Measure | None) -> dict[str, str]:
    """In words, for the result, which weights were kept."""
    if trained.best is None or decisive is None:
        return {}
    step, value = trained.best
    return {
        "weights": f"of step {step} of {trained.steps}, the best on the validation data ({decisive.name} {value:.4f})"
    }
