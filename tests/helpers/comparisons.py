"""Made-up comparisons and results, without any model or data."""

from helpers.made_up import scores
from wheretune import planning
from wheretune.records.base import Spec
from wheretune.records.data import DataInfo, DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import Metric, RunResult, RunSpec, TrainSettings
from wheretune.selectors.fixed import Top
from wheretune.studies import methods
from wheretune.studies.grid import Comparison


def comparison(names="full,prism,top", **changes):
    """A comparison of some methods on files that are not there."""
    given = {
        "model": ModelSpec("org/made-up"), "train": DataSpec("train.csv"), "test": DataSpec("some/test.csv"),
        "validation": DataSpec("dev.csv"), "methods": methods.read_all(names), "k": 2, "seeds": (0, 1),
    }  # fmt: skip
    return Comparison(**given | changes)


def result(job, value=0.5, *, validation=0.5, seconds=10.0, cache=0.0, higher=True, memory=2**20, layers=1):
    """What a run may have given."""
    info = DataInfo(DataSpec("train.csv"), 30, Spec("classification"), ("bad", "good"), "cd" * 32)
    return RunResult(
        spec=RunSpec(
            ModelSpec("org/made-up"),
            DataSpec("train.csv"),
            settings=TrainSettings(learning_rate=job.learning_rate, seed=job.seed),
        ),
        plan=planning.plan(scores(), Top(layers)),
        data={"train": info},
        metrics={
            "validation": (Metric("accuracy", validation, 20, higher),),
            "test": (Metric("accuracy", value, 40, higher), Metric("f1", value / 2, 40)),
        },
        trainable_parameters=1234,
        seconds={"train": seconds, "cache": cache, "evaluate": 0.5},
        peak_memory_bytes=memory,
        steps=6,
        versions={},
        provenance={},
    )
