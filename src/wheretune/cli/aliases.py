"""The option names that Transformers' example scripts and TRL's use, in ours, so that their commands run as they stand.

They stand on no help page. Both the command line and a config file go through here before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wheretune.errors import ConfigError
from wheretune.support.files import at_home

SAME = {  # what means one option of ours
    "model-name-or-path": "model",
    "model-revision": "revision",
    "attn-implementation": "attention",
    "torch-dtype": "dtype",
    "train-file": "train",
    "validation-file": "validation",
    "test-file": "test",
    "text-column-name": "text-column",
    "text-column-names": "text-column",
    "dataset-text-field": "text-column",
    "label-column-name": "label-column",
    "max-train-samples": "max-samples",
    "max-seq-length": "max-length",
    "num-train-epochs": "epochs",
    "per-device-train-batch-size": "batch-size",
    "evaluation-strategy": "eval-strategy",
    "metric-name": "metric",
    "lr": "learning-rate",
    "block-size": "max-length",
    "output-dir": "output",
    "overwrite-output-dir": "overwrite",
    "packing": "pack",
    "padding-free": "pack",
    "chat-template-path": "chat-template",
    "torch-compile": "compile",
}
LORA = {"lora-r": "r", "lora-alpha": "alpha", "lora-dropout": "dropout", "lora-target-modules": "targets"}
FIXED = {  # switches that mean an option with a value
    "fp16": ("dtype", "fp16"),
    "bf16": ("dtype", "bf16"),
    "do-regression": ("task", "regression"),
    "load-in-4bit": ("quantize", "4bit"),
    "load-in-8bit": ("quantize", "8bit"),
    "use-peft": ("tuner", "lora"),
    "use-dora": ("tuner", "dora"),
    "no-cuda": ("device", "cpu"),
    "use-cpu": ("device", "cpu"),
    "assistant-only-loss": ("train-on", "assistant"),
    "completion-only-loss": ("train-on", "assistant"),
}
IDLE = (  # what is so anyway, or changes nothing here
    "do-train", "do-eval", "do-predict", "load-best-model-at-end", "greater-is-better", "shuffle-train-dataset",
    "shuffle-seed", "pad-to-max-length", "use-fast-tokenizer", "disable-tqdm", "per-device-eval-batch-size",
    "lora-task-type", "logging-strategy", "logging-dir", "preprocessing-num-workers", "overwrite-cache",
    "remove-unused-columns", "remove-splits", "remove-columns", "ignore-mismatched-sizes", "local-rank",
    "dataloader-pin-memory", "prediction-loss-only", "log-level", "log-level-replica", "label-names",
    "save-safetensors", "save-only-model", "half-precision-backend", "low-cpu-mem-usage", "hub-strategy",
    "include-inputs-for-metrics", "dataset-num-proc",
)  # fmt: skip
REFUSED = {  # what has no equivalent here, and what does the same
    "max-predict-samples": "--max-eval-samples is for test data too",
    "text-column-delimiter": "leave it out: two texts go to the tokenizer as a pair; join more columns in the file",
    "tokenizer-name": "the model's own tokenizer is used; save another into the model's folder",
    "config-name": "the model's own config is used; save another into the model's folder",
    "token": "run `hf auth login` once",
    "hub-token": "run `hf auth login` once",
    "eos-token": "the tokenizer's own ends a text; save another into the model's folder",
    "group-by-length": "leave it out: the batches hang on seed and epoch alone",
    "use-rslora": "leave it out: LoRA is scaled by alpha / r, so give the alpha that you want (--lora_alpha)",
    "lora-modules-to-save": "leave it out: a classifier's head is trained and kept anyway, and an output matrix stays",
    "packing-strategy": "leave it out: --packing puts the texts of a batch one after the other",
    "model-init-kwargs": "give --dtype, --attention and --revision",
    "dataset-streaming": "leave it out: many rows are read through a memory map",
    "trust-remote-code": "no code from the hub is run",
    "streaming": "`wheretune score` alone streams; all else reads its rows again and again, many of them from disk",
}
TRAINERS = (  # what goes to Trainer as it is, or is refused with Trainer's other arguments
    "adam-beta1", "adam-beta2", "adam-epsilon", "label-smoothing-factor", "lr-scheduler-kwargs", "optim-args",
    "dataloader-num-workers", "dataloader-drop-last", "logging-first-step", "run-name", "tf32", "full-determinism",
    "auto-find-batch-size", "data-seed", "ddp-backend", "ddp-find-unused-parameters", "ddp-timeout", "deepspeed",
    "eval-accumulation-steps", "eval-delay", "eval-on-start", "fsdp-config", "gradient-checkpointing-kwargs",
    "ignore-data-skip", "neftune-noise-alpha", "resume-from-checkpoint", "use-liger-kernel",
)  # fmt: skip
DATASET = (
    "dataset-name", "dataset-config", "dataset-config-name", "dataset-train-split", "train-split-name",
    "dataset-test-split", "validation-split-name", "test-split-name", "task-name",
)  # fmt: skip
GLUE = {  # the columns of its texts, by task
    "cola": "sentence", "mnli": "premise,hypothesis", "mrpc": "sentence1,sentence2", "qnli": "question,sentence",
    "qqp": "question1,question2", "rte": "sentence1,sentence2", "sst2": "sentence", "stsb": "sentence1,sentence2",
    "wnli": "sentence1,sentence2",
}  # fmt: skip
SWITCHES = (
    "do-train", "do-eval", "do-predict", "load-best-model-at-end", "greater-is-better", "shuffle-train-dataset",
    "pad-to-max-length", "use-fast-tokenizer", "disable-tqdm", "overwrite-output-dir", "overwrite-cache", "packing",
    "remove-unused-columns", "ignore-mismatched-sizes", "trust-remote-code", "padding-free", "group-by-length",
    "use-rslora", "dataset-streaming", "prediction-loss-only", "save-safetensors", "save-only-model",
    "low-cpu-mem-usage", "include-inputs-for-metrics", "dataloader-drop-last", "logging-first-step", "tf32",
    "full-determinism", "auto-find-batch-size", "eval-on-start", "ignore-data-skip", "torch-compile",
    "use-liger-kernel", "streaming", *FIXED,
)  # fmt: skip
KNOWN = frozenset((*SAME, *LORA, *FIXED, *IDLE, *REFUSED, *TRAINERS, *DATASET))
SEVERAL = ("lora-target-modules", "report-to", "label-names")  # followed by one value or more
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
METRICS = {"matthews_correlation": "matthews", "pearsonr": "pearson", "spearmanr": "spearman"}  # as `evaluate` has them
TRUTH = ("true", "false")


def translated(command: Any, arguments: Sequence[str]) -> list[str]:
    """A command line in our names; switches may be followed by `True` or `False`, as those scripts take it.

    Raises:
        ConfigError: A name of theirs means an option that the command does not have.
    """
    own = {flag: parameter for parameter in command.params for flag in parameter.opts}
    waiting, ours = list(map(_at_home, arguments)), list[str]()
    theirs: dict[str, list[str]] = {}
    while waiting:
        token = waiting.pop(0)
        flag, equals, value = token.partition("=")
        name = key(flag) if flag.startswith("--") else ""
        if token == "--" or (f"--{name}" not in own and name not in KNOWN):
            ours += [token, *(waiting if token == "--" else ())]
            waiting = [] if token == "--" else waiting
            continue
        switch = name in SWITCHES or getattr(own.get(f"--{name}"), "is_flag", False)
        values = [value] if equals else _values(name, switch, waiting)
        if f"--{name}" in own:
            ours += _own(name, switch, values)
        else:
            theirs[name] = values
    for flag, said in in_our_words(theirs, own):
        ours += [flag] if said is None else [flag, said]
    return ours


def _at_home(token: str) -> str:
    """A word of a command line whose value is a path below `~`, with the folder that is meant."""
    flag, equals, value = token.partition("=") if token.startswith("--") else ("", "", token)
    return f"{flag}{equals}{at_home(value)}"


def _own(name: str, switch: bool, values: Sequence[str]) -> list[str]:
    """An option of ours; a switch that is said to be false is none."""
    if name in SEVERAL:
        return [f"--{name}", ",".join(values)]
    if not switch:
        return [f"--{name}", *(_value(name, one) for one in values)]
    return [] if [one.lower() for one in values] == ["false"] else [f"--{name}"]


def _values(name: str, switch: bool, waiting: list[str]) -> list[str]:
    """Takes the values of an option from what stands behind it."""
    values = []
    if waiting and (not switch or waiting[0].lower() in TRUTH):
        values.append(waiting.pop(0))  # whatever it looks like
    while name in SEVERAL and waiting and not waiting[0].startswith("-"):
        values.append(waiting.pop(0))
    return values


def key(name: str) -> str:
    """An option's name as the tables here have it."""
    return name.removeprefix("--").replace("_", "-")


def in_our_words(theirs: Mapping[str, Sequence[str]], own: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Options of theirs as flags of ours with their values, None for a switch.

    Args:
        theirs: By name, what was given.
        own: The flags that the command has.

    Raises:
        ConfigError: One means an option that the command does not have.
    """
    found: list[tuple[str, str | None]] = []
    for name, values in theirs.items():
        value = values[0] if values else ""
        off = name in SWITCHES and name not in TRAINERS and value.lower() == "false"
        if name in IDLE or off or name in DATASET or _joins_one(name, theirs):
            continue
        if name in REFUSED:
            raise ConfigError(f"--{name.replace('-', '_')} has no equivalent here", REFUSED[name])
        for flag, said in _one(name, value, values):
            if flag not in own:
                raise ConfigError(
                    f"--{name.replace('-', '_')} means {flag}, which this command has not", "leave it out"
                )
            if (flag, said) not in found:
                found.append((flag, said))
    return found + [one for one in _data_sets(theirs) if one[0] in own]


def _joins_one(name: str, theirs: Mapping[str, Sequence[str]]) -> bool:
    """Whether an option says what stands between columns of text, of which there is one."""
    columns = [value for name in ("text-column-name", "text-column-names") for value in theirs.get(name, ())]
    return name == "text-column-delimiter" and not any("," in value for value in columns)


def _data_sets(theirs: Mapping[str, Sequence[str]]) -> list[tuple[str, str | None]]:
    """The hub data set that their options name, by our flag, and the columns of its texts where these are known.

    Raises:
        ConfigError: GLUE has no such task.
    """

    def first(*names: str) -> str:
        return next((theirs[name][0] for name in names if theirs.get(name)), "")

    columns: list[tuple[str, str | None]] = []
    if (task := first("task-name").lower()) and not first("dataset-name"):
        if task not in GLUE:
            remedy = f"it means one of GLUE's, which are {', '.join(GLUE)}; what is to be learned is named with --task"
            raise ConfigError(f"--task_name is {task!r}", remedy)
        name, config, held = "nyu-mll/glue", task, "validation_matched" if task == "mnli" else "validation"
        if not first("text-column-name", "text-column-names"):
            columns = _one("text-column-names", GLUE[task], ())
    else:
        name, config, held = first("dataset-name"), first("dataset-config", "dataset-config-name"), ""
    splits = {
        "--train": first("dataset-train-split", "train-split-name"),
        "--validation": first("validation-split-name", "dataset-test-split") or held,
        "--test": first("test-split-name"),
    }
    wanted = {flag: split for flag, split in splits.items() if split or flag == "--train"} if name else {}
    return [*((flag, ":".join([name, config, split]).rstrip(":")) for flag, split in wanted.items()), *columns]


def _one(name: str, value: str, values: Sequence[str]) -> list[tuple[str, str | None]]:
    """What one option of theirs means."""
    if name in LORA:
        return [("--tuner", "lora"), ("--tuner-option", f"{LORA[name]}={','.join(values)}")]
    if name in FIXED:
        flag, fixed = FIXED[name]
        return [(f"--{flag}", fixed)]
    if name in TRAINERS:
        return [("--trainer-arg", f"{name.replace('-', '_')}={value or 'true'}")]
    if SAME[name] == "text-column" and "," in value:
        first, second, *more = value.split(",")
        if more:
            raise ConfigError(f"--{name.replace('-', '_')} is {value!r}", "name one column, or two for pairs of texts")
        return [("--text-column", first), ("--pair-column", second)]
    return [(f"--{SAME[name]}", None if name in SWITCHES else _value(SAME[name], value))]


def _value(name: str, value: str) -> str:
    """A value in our words."""
    if name in ("metric", "metric-for-best-model"):
        known = value.removeprefix("eval_")
        return METRICS.get(known, known)
    return DTYPES.get(value.removeprefix("torch."), value) if name == "dtype" else value
