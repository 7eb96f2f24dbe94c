"""The options that several commands share: one group per panel of the help, one field per option.

A group makes the record that the library takes: a `ModelSpec`, a `DataSpec`, a `Reading`. What a record refuses, it
refuses by the name of the field, and the command line spells its flag.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from wheretune.cli.columns import LanguageOptions, words_of
from wheretune.cli.config import read_config
from wheretune.cli.groups import Group, group, needed, option
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.base import Spec
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec

Seed = Annotated[int, option("--seed", "Seed for all random draws.")]
AsJson = Annotated[
    bool, option("--json", "Print JSON for a script, and nothing else, on standard output.", rich_help_panel="Output")
]
Config = Annotated[
    Path | None,
    option("--config", "YAML or JSON file with any of these options.", callback=read_config, is_eager=True),
]
Scorer = Annotated[
    str,
    option(
        "--scorer",
        "How much each layer matters; see `wheretune scorers`. Options follow colons: cka:estimator=debiased.",
        axis="scorer",
        rich_help_panel="Choice",
    ),
]

DataFile = Annotated[
    str | None, option("--data", "Data, as for --train of `wheretune tune`.", metavar="F", rich_help_panel="Data")
]
Revision = Annotated[
    str | None, option("--revision", "Commit, branch or tag on the hub.", default="the newest", metavar="R")
]
LayersAttribute = Annotated[
    str | None,
    option(
        "--layers-attribute",
        "Path of the list of layers in the headless model, where it is not found.",
        default="found",
        metavar="PATH",
    ),
]
Metrics = Annotated[
    list[str] | None,
    option(
        "--metric",
        "A metric beside those of the task; see `wheretune metrics`. May be repeated.",
        default="those of the task",
        axis="metric",
        rich_help_panel="Output",
    ),
]


def metric_names(given: list[str] | None) -> tuple[str, ...]:
    """The metrics that were asked for.

    Raises:
        ConfigError: One is unknown.
    """
    from wheretune import catalog

    return tuple(catalog.written("metric", name).name for name in given or ())


def absolute(name: str) -> str:
    """A local file or folder by its absolute path, so that it is found from elsewhere too; another name as it is.

    Links are kept: what they point to may have another ending, or none.
    """
    return str(Path(name).absolute()) if Path(name).exists() else name


def there(model: ModelSpec) -> ModelSpec:
    """The model, seen to be there (a hub name is asked for briefly).

    Raises:
        ModelError: There is no such folder, and no such model on the hub, or this machine cannot hold it as asked.
    """
    from wheretune.records.model import check_machine
    from wheretune.support.hub import below_adapter, resolve

    check_machine(model)
    resolve(*below_adapter(model.name, model.revision))
    return model


# --- the model -----------------------------------------------------------------------------------


@group
class BaseOptions(Group):
    """Where the model of a plan, a run or a tuned model is now, and how it is held."""

    panel: ClassVar[str] = "Model"
    model: Annotated[
        str | None,
        option("--model", "Where the model is now: a local folder or hub name.", default="where it was", metavar="M"),
    ] = None
    revision: Revision = None
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        option(
            "--dtype",
            "Precision of the weights; auto takes the checkpoint's own. Weights that train are held in fp32.",
            default="auto",
        ),
    ] = None
    device: Annotated[
        str | None,
        option("--device", "auto (a GPU if there is one), cpu, cuda, cuda:N or mps.", default="auto", metavar="D"),
    ] = None
    attention: Annotated[
        Literal["eager", "sdpa", "flash_attention_2"] | None,
        option(
            "--attention",
            "How attention is computed.",
            default="Transformers' own choice",
            metavar="[eager|sdpa|flash_attention_2]",
        ),
    ] = None

    def over(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what was given in place of its own; another name drops the revision, unless one was given."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "model"}
        given = {name: value for name, value in given.items() if value is not None}
        if self.model is not None:
            given |= {"name": absolute(self.model), "revision": self.revision}
        return replace(spec, **given)


@group
class ModelOptions(BaseOptions):
    """Which model, and how it is opened."""

    model: Annotated[str | None, option("--model", "Local folder or hub name.", metavar="M")] = None
    layers_attribute: LayersAttribute = None
    quantize: Annotated[
        Literal["4bit", "8bit"] | None,
        option("--quantize", "Hold the base in 4 or 8 bits; needs CUDA and bitsandbytes.", default="none"),
    ] = None

    def spec(self, flag: str = "--model") -> ModelSpec:
        """The model, seen to be there (a hub name is asked for briefly).

        Raises:
            ConfigError: None was named.
            ModelError: There is no such folder, and no such model on the hub.
        """
        from wheretune.records.model import ModelSpec

        return there(self.over(ModelSpec(needed(self.model, flag))))


# --- the data ------------------------------------------------------------------------------------


@group
class TextOptions(Group):
    """How the rows of a file become texts."""

    panel: ClassVar[str] = "Data"
    text_column: Annotated[str | None, option("--text-column", "Column with the text.", default="text")] = None
    pair_column: Annotated[str | None, option("--pair-column", "Column with the second text of a pair.")] = None
    max_samples: Annotated[
        int | None, option("--max-samples", "Use so many rows, drawn at random, the same for all.", default="all")
    ] = None
    max_length: Annotated[
        int | None,
        option("--max-length", "Tokens that a text is cut to.", default="the model's limit, at most 512"),
    ] = None
    bad_rows: Annotated[
        Literal["refuse", "skip"],
        option("--bad-rows", "Rows without text or with a label that cannot be used: refuse the data, or skip them."),
    ] = "refuse"

    @property
    def columns(self) -> dict[str, Any]:
        """The task's settings that were given."""
        given = {"text_column": self.text_column, "pair_column": self.pair_column}
        return {name: value for name, value in given.items() if value is not None}

    def task(self) -> Spec:
        """The task with its settings."""
        from wheretune.records.base import Spec

        return Spec("auto", self.columns)

    def spec(self, source: str, seed: int = 0, split: str = "train") -> DataSpec:
        """One source, read so.

        Args:
            source: The files, folder or data set; see `data.sources.read_source`.
            seed: Seed for the draw of rows.
            split: Which split it is read for; `max_samples` is about training data.

        Raises:
            ConfigError: A number is below 1.
        """
        from wheretune.data.sources import located
        from wheretune.records.data import DataSpec

        drawn = self.max_samples if split == "train" else None
        return DataSpec(located(source, split), self.task(), drawn, self.max_length, seed, self.bad_rows)


@group
class DataOptions(TextOptions, LanguageOptions):
    """How the rows of a file become texts with what is learned of them."""

    label_column: Annotated[str | None, option("--label-column", "Column with the label.", default="label")] = None
    label_separator: Annotated[
        str | None,
        option("--label-separator", "For multi-label: what stands between labels that are one string.", default="none"),
    ] = None
    target_column: Annotated[
        str | None,
        option(
            "--target-column",
            "For generation: the column of what follows. For semantic-deviation: the column whose first token follows.",
            default="none, or target",
        ),
    ] = None
    verbalizer: Annotated[
        str,
        option(
            "--verbalizer",
            "For next-token and semantic-deviation: the word for each class, as class=word,class=word.",
            default="the classes' names",
        ),
    ] = ""
    task_name: Annotated[
        str,
        option(
            "--task",
            "What is to be learned; see `wheretune tasks`. auto asks columns and labels.",
            axis="task",
        ),
    ] = "auto"

    @property
    def columns(self) -> dict[str, Any]:
        """The task's settings that were given."""
        words = words_of(self.verbalizer)
        if words is not None and self.target_column is not None:
            raise ConfigError(
                "--verbalizer and --target-column both say what follows a text", "give the one or the other"
            )
        given = {
            "label_column": self.label_column,
            "label_separator": self.label_separator,
            "target_column": self.target_column,
            "verbalizer": words,
        }
        return super().columns | {name: value for name, value in given.items() if value is not None} | self.language

    def task(self) -> Spec:
        """The task with its settings, whether they stand in --task or in options of their own."""
        from wheretune import catalog
        from wheretune.records.base import Spec

        separated = self.label_separator is not None and self.task_name == "auto"
        asked = catalog.written("task", "multi-label" if separated else self.task_name)
        return Spec(asked.name, {**asked.params, **self.columns})


FORMATS = (
    ".jsonl, .json, .csv, .tsv, .txt or .parquet, packed or not, several with commas or as a pattern; - for standard "
    "input; a folder with files such as train.jsonl and test.csv; or a hub data set as name:config:split"
)


@group
class TrainOptions(DataOptions):
    """The training data."""

    train: Annotated[str | None, option("--train", f"Training data: {FORMATS}.", metavar="F")] = None

    def spec_of_train(self, seed: int, flag: str = "--train") -> DataSpec:
        """The training data.

        Raises:
            ConfigError: None was named, or a number is out of range.
        """
        return self.spec(needed(self.train, flag), seed)


# --- what is written -----------------------------------------------------------------------------

Overwrite = Annotated[
    bool, option("--overwrite", "Replace a file that is there and says something else.", rich_help_panel="Output")
]


@group
class FolderOptions(Group):
    """The folder that a command writes."""

    panel: ClassVar[str] = "Output"
    output: Annotated[Path | None, option("--output", "Folder of the run.", metavar="DIR")] = None
    resume: Annotated[
        bool, option("--resume", "Not needed: a stopped run goes on, and a finished one is read again.")
    ] = False
    overwrite: Annotated[bool, option("--overwrite", "Replace what wheretune left in --output.")] = False

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            ConfigError: None was named.
        """
        folder: Path = needed(self.output, "--output")
        return folder
