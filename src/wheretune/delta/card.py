"""A card that says what a tuned model is."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.delta.folder import CARD
from wheretune.support.files import write_text
from wheretune.support.words import short_name
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelSpec
    from wheretune.records.plan import Plan
    from wheretune.records.runs import Metric

Judged = Mapping[str, tuple["DataInfo", tuple["Metric", ...]]]  # by split: what was read and how it was answered
PIPELINES = dict.fromkeys(("classification", "regression", "multi-label"), "text-classification")  # the hub's word
HUB_METRICS = {
    "macro-f1": "f1", "f1-micro": "f1", "f1-macro": "f1", "matthews": "matthews_correlation", "pearson": "pearsonr",
    "spearman": "spearmanr",
}  # fmt: skip


def write_card(folder: Path, plan: Plan, data: DataInfo | None, judged: Judged | None = None) -> None:
    """Writes the card of a delta into its folder, over an earlier one."""
    write_text(folder / CARD, model_card(plan, data, judged))


def model_card(plan: Plan, data: DataInfo | None, judged: Judged | None = None) -> str:
    """A README.md in Markdown that says which layers were tuned, why, how sure the choice is and what it cost.

    Args:
        plan: What was tuned.
        data: The training data, if wheretune read it.
        judged: What the tuned model answered, if it was judged; the hub shows it as `model-index`.
    """
    judged = judged or {}
    rows, model = _rows(plan, data, judged), plan.model
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    scores = "".join(
        f"| {one.index} | {_escape(model.layers[one.index].path)} | {one.score:.4f} |\n"
        for one in plan.chosen
        if one.score is not None
    )
    return (
        f"---\n{_front(plan, data, judged)}\n---\n\n# Tuned where it matters\n\n"
        "Only what changed is in this folder: open it with the base model, as below.\n\n"
        f"| | |\n| --- | --- |\n{table}\n"
        + (f"| layer | path | score |\n| --- | --- | --- |\n{scores}\n" if scores else "")
        + "```python\nimport wheretune as wt\n\n"
        + (
            "tuned = wt.open_finetuned(folder)  # this folder; tuned.logits(data)\n"
            if data is not None
            else "wt.load_delta(model, folder)  # your model, made as it was made for training, and this folder\n"
        )
        + "```\n"
    )


def _rows(plan: Plan, data: DataInfo | None, judged: Judged) -> list[tuple[str, str]]:
    """The table of a card: what it is about, and what is to be said of it."""
    model, cost = plan.model, plan.cost
    why = f"chosen by {_escape(plan.selector)}"
    if plan.scorer is not None:
        why += f" from the scores of {_escape(plan.scorer)}"
    unsure = "unknown: the choice reads no scores, or they are no means over samples"
    rows = [
        ("base model", _escape(model.name) + (f" at {_escape(model.spec.revision)}" if model.spec.revision else "")),
        ("weights (SHA-256)", model.hash),
        ("layers", f"{_escape(model.named(plan.layers) or 'none')} of {len(model)}, counted from 0"),
        ("why these", why),
        *([("because", _escape(plan.reason))] if plan.reason is not None else []),
        ("how sure", unsure if plan.confidence is None else _escape(plan.confidence.in_words(model.called))),
        ("tuner", _escape(plan.tuner)),
        ("head", _escape(plan.head)),
        ("schedule", _escape(plan.schedule)),
        ("trainable", f"{cost.trainable_parameters} of {cost.total_parameters} parameters ({cost.share:.2%})"),
        ("expected", f"{cost}, by FLOPs"),
    ]
    if data is not None:
        task = task_of(data).describe(data.classes)
        rows.append(("data", f"{_escape(_source(data)[1])}, {data.rows} rows, {_escape(task)}"))
        rows += [("classes", _escape(", ".join(data.classes)))] if data.classes else []
    rows += [
        (f"{split} of {_escape(_source(info)[1])}", _escape(one))
        for split, (info, every) in judged.items()
        for one in every
    ]
    return rows


def _front(plan: Plan, data: DataInfo | None, judged: Judged) -> str:
    """What the hub reads of a card, in YAML."""
    from huggingface_hub import ModelCardData

    sources = {_source(info)[0] for info in (data, *(info for info, _ in judged.values())) if info is not None}
    results = [_result(split, info, one) for split, (info, every) in judged.items() for one in every]
    front = ModelCardData(
        library_name="wheretune",
        tags=["wheretune", plan.tuner.name],
        base_model=None if Path(plan.model.name).is_absolute() else plan.model.name,
        datasets=sorted(source for source in sources if source is not None) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        pipeline_tag=None if data is None else PIPELINES.get(data.task.name),
        model_name=f"{short_name(plan.model.name)}, {plan.tuner.name}" if results else None,
        eval_results=results or None,
        **licence_of(plan.model.spec),
    )
    return str(front.to_yaml())


def _source(data: DataInfo) -> tuple[str | None, str]:
    """The name of a data set on the hub (None for a file), and what to call it: never where a file lies."""
    source = data.spec.source
    if source.count(":") == 2 and not Path(source).exists():
        return source.split(":")[0], source
    return None, Path(source).name


def _result(split: str, data: DataInfo, metric: Metric) -> EvalResult:
    """A metric as an entry of `model-index`."""
    from huggingface_hub import EvalResult

    hub, name = _source(data)
    return EvalResult(
        task_type=PIPELINES.get(data.task.name, data.task.name),
        dataset_type=hub or name,
        dataset_name=name,
        dataset_split=split,
        metric_type=HUB_METRICS.get(metric.name, metric.name),
        metric_name=metric.name,
        metric_value=metric.value,
        metric_args={"n": metric.n},
    )


def licence_of(model: ModelSpec) -> dict[str, Any]:
    """The licence of a base model as its own card gives it, if that card lies on this machine.

    Returns:
        `license` and, where it is none of the hub's, `license_name` and `license_link`; nothing where it is not known.
    """
    from huggingface_hub import ModelCard, try_to_load_from_cache

    try:
        here = Path(model.name) / CARD
        card = here if here.is_file() else try_to_load_from_cache(model.name, CARD, revision=model.revision)
        read = ModelCard.load(card, ignore_metadata_errors=True).data if isinstance(card, str | Path) else None
    except Exception:  # a name that the hub could not have, or a card whose head is no YAML
        return {}
    found = {key: getattr(read, key, None) for key in ("license", "license_name", "license_link")}
    return {key: value for key, value in found.items() if isinstance(value, str) and found["license"]}


def _escape(thing: object) -> str:
    """Text as Markdown shows it, whatever is in it."""
    text = html.escape(" ".join(str(thing).split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in text)
