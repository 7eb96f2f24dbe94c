"""A plan in the words of other tools, and a card that says what a tuned model is.

What a tool cannot say is an error that says so: a plan that comes out as another one would be worse than none.
"""

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from wheretune.errors import ConfigError
from wheretune.types import DataInfo, Plan

LOW_RANK = ("lora", "dora", "pissa")  # the tuners that TRL, Axolotl and LLaMA-Factory all have


def export(plan: Plan, tool: str) -> str:
    """The plan as a piece of a tool's own config file.

    Args:
        plan: Layers and tuner are taken from it, data and training are left to the tool.
        tool: `peft`, `trl`, `axolotl` or `llama-factory`.

    Raises:
        ConfigError: The tool is unknown, or cannot say what the plan says.
    """
    if tool not in TOOLS:
        raise ConfigError(f"there is no export to {tool!r}", f"known are {', '.join(TOOLS)}")
    if not plan.chosen:
        raise ConfigError("the plan names no layers", "make it with this version, and another tuner than head-only")
    return TOOLS[tool](plan)


def _peft(plan: Plan) -> str:
    """An adapter_config.json."""
    return json.dumps(peft_config(plan).to_dict(), indent=2, sort_keys=True, default=sorted) + "\n"


def peft_config(plan: Plan) -> Any:
    """The PEFT config that does what the plan's own tuner does.

    Raises:
        ConfigError: The tuner is not PEFT's.
    """
    given = plan.tuner.params
    low_rank = {"r": given.get("r"), "lora_alpha": given.get("alpha"), "lora_dropout": given.get("dropout")}
    match plan.tuner.name:
        case "lora":
            return plan.to_peft("lora", given["targets"], **low_rank)
        case "dora":
            return plan.to_peft("lora", given["targets"], use_dora=True, **low_rank)
        case "pissa":
            low_rank["lora_alpha"] = given["alpha"] or given["r"]
            return plan.to_peft("lora", given["targets"], init_lora_weights="pissa", **low_rank)
        case "ia3":
            return plan.to_peft("ia3")
    raise ConfigError(f"PEFT has no config for the tuner {plan.tuner}", "plan with lora, dora, pissa or ia3")


def _trl(plan: Plan) -> str:
    if plan.tuner.name in ("lora", "dora"):
        return _yaml(
            "For `trl sft --config`. The modules are named in full, so no other layer is touched.",
            {
                "model_name_or_path": plan.model.name,
                "use_peft": True,
                "lora_r": plan.tuner.params["r"],
                "lora_alpha": int(plan.tuner.params["alpha"]),
                "lora_dropout": plan.tuner.params["dropout"],
                "use_dora": plan.tuner.name == "dora",
                "lora_target_modules": plan.targets(plan.tuner.params["targets"]),
            },
        )
    return _yaml(
        "TRL's own scripts do not read this key. In a script of yours, before the SFTTrainer is made:\n"
        "for name, p in model.named_parameters():\n"
        "    p.requires_grad = any(re.match(u, name) for u in unfrozen_parameters)",
        {"model_name_or_path": plan.model.name, "unfrozen_parameters": _unfrozen(plan, "TRL")},
    )


def _axolotl(plan: Plan) -> str:
    if plan.tuner.name in LOW_RANK:
        content: dict[str, Any] = {
            "base_model": plan.model.name,
            "adapter": "lora",
            "lora_r": plan.tuner.params["r"],
            "lora_alpha": int(plan.tuner.params["alpha"] or plan.tuner.params["r"]),
            "lora_dropout": plan.tuner.params["dropout"],
            "lora_target_modules": plan.targets(plan.tuner.params["targets"]),
        }
        extra: dict[str, dict[str, Any]] = {
            "dora": {"peft_use_dora": True},
            "pissa": {"peft_init_lora_weights": "pissa"},
        }
        return _yaml("For Axolotl.", content | extra.get(plan.tuner.name, {}))
    return _yaml(
        "For Axolotl: it trains what matches and freezes the rest.",
        {"base_model": plan.model.name, "unfrozen_parameters": _unfrozen(plan, "Axolotl")},
    )


def _unfrozen(plan: Plan, tool: str) -> list[str]:
    """Patterns for `re.match` on the parameters' names in the model with its language-modelling head.

    Axolotl escapes every dot itself, so a pattern must do without dots that mean any character.
    """
    end = {"full": "", "bias": "[a-zA-Z0-9_.]*bias$"}.get(plan.tuner.name)
    if end is None:
        raise ConfigError(f"{tool} cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora")
    prefix = f"{plan.model.prefix}." if plan.model.prefix else ""
    if plan.tuner.params.get("embeddings"):
        raise ConfigError("this plan trains everything, and needs no export", f"fine-tune the whole model in {tool}")
    return [f"^{prefix}{layer.path}.{end}" for layer in plan.chosen]


def _llama_factory(plan: Plan) -> str:
    if plan.tuner.name in LOW_RANK:
        content: dict[str, Any] = {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "lora",
            "lora_rank": plan.tuner.params["r"],
            "lora_alpha": int(plan.tuner.params["alpha"] or plan.tuner.params["r"]),
            "lora_dropout": plan.tuner.params["dropout"],
            "lora_target": ",".join(plan.targets(plan.tuner.params["targets"])),
        }
        extra: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"pissa_init": True, "pissa_iter": -1}}
        return _yaml("For LLaMA-Factory.", content | extra.get(plan.tuner.name, {}))
    if plan.tuner.name != "full":
        raise ConfigError(
            f"LLaMA-Factory cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora"
        )
    k, layers = len(plan.layers), plan.model.layers
    if plan.layers == tuple(range(layers - k, layers)):
        number = k
    elif plan.layers == tuple(range(k)):
        number = -k
    else:
        raise ConfigError(
            f"LLaMA-Factory can train the first or the last layers only, not {', '.join(map(str, plan.layers))}",
            "export to axolotl, or plan with --tuner lora, which it can put on any layers",
        )
    return _yaml(
        "For LLaMA-Factory: the last layers (below zero: the first).",
        {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "freeze",
            "freeze_trainable_layers": number,
            "freeze_trainable_modules": "all",
        },
    )


def _yaml(words: str, content: Mapping[str, Any]) -> str:
    head = "".join(f"# {line}\n" for line in words.splitlines())
    return head + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


TOOLS: Mapping[str, Callable[[Plan], str]] = {
    "peft": _peft,
    "trl": _trl,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
}


# --- the card -----------------------------------------------------------------------------------


def model_card(plan: Plan, data: DataInfo | None) -> str:
    """A README.md in Markdown that says which layers were tuned, why, how sure the choice is and what it cost."""
    front: dict[str, Any] = {"library_name": "wheretune", "tags": ["wheretune", plan.tuner.name]}
    if not Path(plan.model.name).is_absolute():
        front["base_model"] = plan.model.name
    share = plan.cost.trainable_parameters / plan.cost.total_parameters
    why = f"chosen by {_escape(plan.selector)}"
    if plan.scorer is not None:
        why += f" from the scores of {_escape(plan.scorer)}"
    if plan.confidence is not None:
        sure = _escape(plan.confidence)
    else:
        sure = "not said: the choice reads no scores, or they are no means over samples"
    rows = [
        ("base model", f"{_escape(plan.model.name)}" + (f" at {plan.model.revision}" if plan.model.revision else "")),
        ("weights (SHA-256)", plan.model.hash),
        ("layers", f"{_escape(', '.join(map(str, plan.layers)) or 'none')} of {plan.model.layers}, counted from 0"),
        ("why these", why),
        *([("because", _escape(plan.reason))] if plan.reason is not None else []),
        ("how sure", sure),
        ("tuner", _escape(plan.tuner)),
        ("head", _escape(plan.head)),
        ("schedule", _escape(plan.schedule)),
        ("trainable", f"{plan.cost.trainable_parameters} of {plan.cost.total_parameters} parameters ({share:.2%})"),
        ("expected", f"{plan.cost}, by FLOPs"),
    ]
    if data is not None:
        rows.append(("data", f"{_escape(Path(data.spec.source).name)}, {data.rows} rows, {data.task}"))
        rows += [("classes", _escape(", ".join(data.classes)))] if data.classes else []
    scored = [layer for layer in plan.chosen if layer.score is not None]
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    scores = "".join(f"| {one.index} | {_escape(one.path)} | {one.score:.4f} |\n" for one in scored)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Tuned where it matters\n\n"
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


def _escape(thing: object) -> str:
    """Text as Markdown shows it, whatever is in it."""
    text = html.escape(" ".join(str(thing).split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$!" else letter for letter in text)
