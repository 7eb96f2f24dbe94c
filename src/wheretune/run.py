"""RunSpec -> RunResult: the whole pipeline on one screen, and what opens its output again.

A run's folder holds `run.json` (the spec), while it trains `checkpoint/`, and when it is finished the delta
(`delta.safetensors`, `wheretune.json`) and, last of all, `result.json`.
"""

import contextlib
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import nn

from wheretune import catalog
from wheretune.anatomy import (
    check_plan,
    find_layers,
    load_config,
    load_model,
    load_tokenizer,
    max_tokens,
    plain_classifier,
    resolve,
)
from wheretune.capture import LastState
from wheretune.data import LabelUse, TextData, collator, encode, load_data
from wheretune.delta import MANIFEST, put_delta, read_delta, save_delta
from wheretune.errors import DataError, DeltaError, OutputError
from wheretune.files import claim, sweep, write
from wheretune.heads import HeadedModel
from wheretune.metrics import evaluate
from wheretune.scorers.base import Scorer, Settle, score_stack, versions
from wheretune.training import check_settings, checkpoints, predict, train
from wheretune.tuners.base import Tuned
from wheretune.types import (
    DataInfo,
    DataSpec,
    LayerScores,
    Manifest,
    Metric,
    Plan,
    Pooling,
    RunResult,
    RunSpec,
    load,
    save,
    to_json,
)

SPEC, RESULT = "run.json", "result.json"


def apply(model: nn.Module, plan: Plan) -> Tuned:
    """Makes a model train as `plan` says: its layers and what sits on top, and nothing else.

    Only `requires_grad` is changed; `Tuned.undo` gives it back. Make the optimizer (or the Trainer) after.

    Args:
        model: Any Hugging Face transformer, with or without a head of its own.
        plan: Made for this model.

    Raises:
        PlanError: The plan was made for another model, or names no layer.
    """
    return Tuned(model, plan, catalog.tuner(plan.tuner))


def score_model(
    name: str,
    data: DataSpec,
    scorers: Sequence[Scorer],
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
    last: LastState = "normed",
    settle: Settle | None = None,
) -> list[LayerScores]:
    """Loads a model and data by name and scores the layers with every scorer in one pass.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
    """
    texts = load_data(data, labels="optional")
    stack = find_layers(load_model(name))
    revision = resolve(name).get("revision")
    return score_stack(
        stack,
        load_tokenizer(name),
        texts,
        scorers,
        batch_size=batch_size,
        pooling=pooling,
        last=last,
        revision=revision,
        settle=settle,
    )


def layer_count(name: str) -> int:
    """How many layers a model has, read from its config alone."""
    return int(load_config(name).num_hidden_layers)


def check_fit(plan: Plan) -> None:
    """Loads the plan's model and makes sure that the plan was made for it, before anything is written.

    Raises:
        PlanError: It was made for another one.
    """
    check_plan(find_layers(load_model(plan.model.name, plan.model.revision)), plan)


def run(spec: RunSpec, folder: Path, description: str = "training") -> RunResult:
    """Trains, proves the engagement, evaluates and saves; a finished run is read back, a stopped one goes on.

    Args:
        spec: Everything needed to repeat the run.
        folder: Its own folder; holds nothing but this run.
        description: What the progress bar says.

    Raises:
        WheretuneError: Of every kind, for what the user can mend.
        OutputError: The folder holds another run.
    """
    check_settings(spec.settings)
    catalog.build("schedule", catalog.SCHEDULES, spec.plan.schedule)
    sweep(folder)
    claim(folder / SPEC, to_json(spec))
    if (folder / RESULT).is_file():
        _leave_no_checkpoint(folder)
        return load(RunResult, folder / RESULT)
    named = spec.plan.model
    base, tokenizer = load_model(named.name, named.revision), load_tokenizer(named.name, named.revision)
    data = _same(spec.train)
    splits = {
        name: _same(info, like=data.info)
        for name, info in (("validation", spec.validation), ("test", spec.test))
        if info is not None
    }
    model = _headed(base, spec.plan, data, spec.settings.seed)
    tuned = apply(model, spec.plan)
    length = max_tokens(base, tokenizer, spec.train.spec.max_length)
    collate = collator(tokenizer)
    with _peak_memory() as memory:
        log = train(model, encode(data, tokenizer, length), collate, spec.settings, folder, description)
    (folder / MANIFEST).unlink(missing_ok=True)  # of a sitting that was killed before its result was written
    save_delta(tuned, folder, data=data.info, max_length=length)
    started = time.perf_counter()
    metrics = {
        name: _measure(model, split, encode(split, tokenizer, length), collate) for name, split in splits.items()
    }
    result = RunResult(
        spec=spec,
        metrics=metrics,
        trainable_parameters=tuned.trainable_parameters,
        seconds={"train": log.seconds, "evaluate": time.perf_counter() - started},
        peak_memory_bytes=memory.get("peak"),
        steps=log.steps,
        versions=versions(),
        provenance=provenance(),
    )
    save(result, folder / RESULT)
    _leave_no_checkpoint(folder)
    return result


def _same(info: DataInfo, like: DataInfo | None = None) -> TextData:
    """The data that `info` describes.

    Raises:
        DataError: It is no longer what it was when the run was planned.
    """
    data = load_data(info.spec, like=like)
    if data.info.hash != info.hash:
        raise DataError(
            f"{info.spec.source} has changed since the run was begun", "start the run over with --overwrite"
        )
    return data


def _leave_no_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)


def _headed(base: nn.Module, plan: Plan, data: TextData, seed: int) -> HeadedModel:
    centre = float(np.mean(data.labels)) if data.labels and data.info.task == "regression" else 0.0
    outputs = max(len(data.info.classes), 1)
    return HeadedModel(base, catalog.head(plan.head), outputs, data.info.task, seed, centre)


def _measure(model: nn.Module, data: TextData, rows: list[dict[str, Any]], collate: Any) -> tuple[Metric, ...]:
    logits = predict(model, rows, collate, description="evaluating")
    return evaluate(logits, np.array(data.labels), data.info.task)


# --- opening a finished run ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A tuned model that has been opened again: base, delta and tokenizer."""

    model: HeadedModel
    tokenizer: Any
    manifest: Manifest

    def logits(self, data: TextData, batch_size: int = 32) -> Float[np.ndarray, "row output"]:
        """The logits of every row."""
        assert self.manifest.max_length is not None
        rows = encode(data, self.tokenizer, self.manifest.max_length)
        return predict(self.model, rows, collator(self.tokenizer), batch_size)

    def read(self, source: str, labels: LabelUse) -> TextData:
        """Data with the columns, task and classes of the training data."""
        assert self.manifest.data is not None
        spec = replace(self.manifest.data.spec, source=source, max_samples=None)
        return load_data(spec, like=self.manifest.data, labels=labels)


def open_finetuned(folder: str | Path, model: str | None = None) -> Finetuned:
    """Opens the folder that `wheretune tune` wrote.

    Args:
        folder: The folder.
        model: Where the base model is now, if it is not where it was; its weights must be the same.

    Raises:
        DeltaError: The folder holds no finished run, or the base weights are others.
    """
    manifest, tensors = read_delta(folder)
    if manifest.data is None or manifest.max_length is None:
        raise DeltaError(
            f"{folder} was saved from a model of your own, whose class {MANIFEST} does not know",
            "make that model and call wheretune.load_delta(model, folder)",
        )
    name = model or manifest.plan.model.name
    revision = None if model else manifest.plan.model.revision
    base = load_model(name, revision)
    outputs = max(len(manifest.data.classes), 1)
    headed = HeadedModel(base, catalog.head(manifest.plan.head), outputs, manifest.data.task, seed=0)
    put_delta(headed, manifest, tensors, str(folder))
    return Finetuned(headed.eval(), load_tokenizer(name, revision), manifest)


def merge(tuned: Finetuned, output: Path) -> bool:
    """Writes a plain Transformers checkpoint with the delta merged in.

    Where the family's own sequence classifier can compute the head, and is seen to give the same logits, the
    checkpoint is that classifier. Otherwise it is the base model, with the head beside it in `head.safetensors`.

    Returns:
        Whether the checkpoint is a sequence classifier.

    Raises:
        OutputError: `output` is taken.
    """
    sweep(output.parent)
    if output.exists():
        raise OutputError(f"{output} already exists", "choose another --output")
    model = tuned.model.cpu()
    assert tuned.manifest.data is not None
    linear = model.head[-1]
    plain = None
    if not model.all_layers and isinstance(linear, nn.Linear):
        plain = plain_classifier(model.base, linear, tuned.manifest.data.classes, tuned.tokenizer.pad_token_id)
    if plain is not None and not _agree(tuned, plain):
        plain = None

    def fill(draft: Path) -> None:
        draft.mkdir()
        (plain or model.base).save_pretrained(draft)  # type: ignore[operator]
        tuned.tokenizer.save_pretrained(draft)
        if plain is None:
            head = {name: value.contiguous() for name, value in model.head.state_dict().items()}
            save_file(head, draft / "head.safetensors", {"format": "pt"})

    write(output, fill)
    return plain is not None


def _agree(tuned: Finetuned, plain: nn.Module) -> bool:
    """Whether a plain classifier gives the logits of the tuned model, alone and padded."""
    texts = [
        "Both must give the same answer.",
        "Also where a shorter text is padded to the length of a longer.",
    ]
    batch = dict(tuned.tokenizer(texts, padding=True, return_tensors="pt"))
    with torch.no_grad():
        ours = tuned.model.eval()(**batch).logits
        theirs = plain(**batch).logits
    return bool((ours - theirs).abs().max() <= 1e-4 * (1 + ours.abs().max()))


# --- what surrounds a result --------------------------------------------------------------------


@contextlib.contextmanager
def _peak_memory() -> Iterator[dict[str, int]]:
    """Fills in `peak`: the highest memory inside, in bytes; of the device on CUDA, else resident."""
    found: dict[str, int] = {}
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            reset.write_text("5")  # Linux: the high-water mark starts again from here
    yield found
    if torch.cuda.is_available():
        found["peak"] = torch.cuda.max_memory_allocated()
    elif status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found["peak"] = int(line.split()[1]) * 1024
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def provenance() -> dict[str, str]:
    """When, on what and from which state of the code a number came."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "code": _code(),
    }


@cache
def _code() -> str:
    """The commit of a checkout, with a flag where it was changed; empty for an installed package."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return ""
