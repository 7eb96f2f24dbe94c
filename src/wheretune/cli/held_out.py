"""The options for what is judged after a training: files of their own, or a share that is set aside."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from wheretune.cli.groups import group, option
from wheretune.cli.options import FORMATS, TrainOptions
from wheretune.errors import ConfigError
from wheretune.records.data import DataSpec

NUMBER = re.compile(r"0?\.\d+|\d{1,2}")  # a share without its sign
SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@group
class JudgedOptions(TrainOptions):
    """The training data, and what is judged after training."""

    train: Annotated[str | None, option("--train", f"Training data: {FORMATS}.", metavar="F")] = None
    validation: Annotated[
        str | None,
        option("--validation", "Validation data, or a share of the training data such as 10%.", metavar="F"),
    ] = None
    test: Annotated[str | None, option("--test", "Test data.", metavar="F")] = None
    max_eval_samples: Annotated[
        int | None,
        option(
            "--max-eval-samples",
            "Judge so many rows of each, drawn at random, the same for every --seed.",
            default="all",
        ),
    ] = None

    def spec_of_train(self, seed: int, flag: str = "--train") -> DataSpec:
        """The training data, without the share that is set aside for validation."""
        spec, share = super().spec_of_train(seed, flag), self._share()
        return spec if share is None else replace(spec, part=(share, 1.0))

    def judged(self, seed: int = 0) -> dict[str, Any]:
        """By split, what is judged: the same rows in every run, whatever its seed, so that runs can be compared.

        Args:
            seed: That of the training data, by which a share of it is set aside.
        """
        given = {"validation": self.validation, "test": self.test}
        specs = {name: self.spec(source, split=name) for name, source in given.items() if source is not None}
        share = self._share()
        if self.max_eval_samples is not None:
            specs = self._drawn(specs, share)
        if share is not None:
            specs["validation"] = replace(super().spec_of_train(seed), part=(0.0, share))
        return specs

    def _drawn(self, specs: dict[str, Any], share: float | None) -> dict[str, Any]:
        """The same with as many rows of each as are to be judged.

        Raises:
            ConfigError: There are none of which some could be drawn.
        """
        from wheretune.records.runs import at_least

        at_least(1, "max_eval_samples", self.max_eval_samples)
        if share is not None:
            raise ConfigError(f"--validation is {self.validation}", "give a smaller share, without --max-eval-samples")
        if not specs:
            raise ConfigError("--max-eval-samples has no effect", "give validation or test data")
        return {name: replace(spec, max_samples=self.max_eval_samples) for name, spec in specs.items()}

    def _share(self) -> float | None:
        """The share of the training data that is set aside for validation; None where there is none.

        Raises:
            ConfigError: It is not between 0 and 100 %.
        """
        found = SHARE.fullmatch(self.validation or "")
        if found is None:
            if NUMBER.fullmatch(self.validation or "") and not Path(self.validation or "").exists():
                raise ConfigError(f"--validation is {self.validation}", "write a share with its sign, such as 10%")
            return None
        share = float(found[1]) / 100
        if not 0 < share < 1:
            raise ConfigError(f"--validation is {self.validation}", "give more than 0% and less than 100%")
        return share
