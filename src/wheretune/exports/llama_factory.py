"""A plan for LLaMA-Factory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.data.sources import HubData
from wheretune.errors import ConfigError
from wheretune.exports.base import as_yaml, low_rank, whole_alpha
from wheretune.exports.data import Piece

if TYPE_CHECKING:
    from wheretune.exports.data import Told
    from wheretune.records.plan import Plan

AS_MESSAGES = "write its rows as messages of role and content"
TEMPLATE = (
    "Without `template` LLaMA-Factory takes its slots from the tokenizer's own chat template; where that writes the "
    "beginning token itself, and the tokenizer writes none, say `template` (such as llama3), or the token is "
    "repeated. It also learns what the template writes behind the token that ends a turn, such as a line break, "
    "reads every turn by itself, and shortens the turns of a conversation that is too long, where wheretune cuts "
    "its end."
)
PACKED = (
    "LLaMA-Factory packs a thousand documents at a time, drops what fills no whole piece, and puts the tokenizer's "
    "beginning token, if it has one, in the place of a piece's first token."
)
EXTRA: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "pissa": {"pissa_init": True, "pissa_iter": -1}}


def llama_factory(plan: Plan) -> str:
    """The plan as a piece of LLaMA-Factory's YAML.

    Raises:
        ConfigError: LLaMA-Factory cannot train with the plan's tuner, or not these layers with it.
    """
    tuner = low_rank(plan)
    if tuner is not None:
        content = {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "lora",
            "lora_rank": tuner.r,
            "lora_alpha": whole_alpha(tuner, "LLaMA-Factory"),
            "lora_dropout": tuner.dropout,
            "lora_target": ",".join(plan.targets(tuner.targets)),
        }
        return as_yaml("For LLaMA-Factory.", content | EXTRA.get(tuner.name, {}))
    if plan.tuner.name != "full":
        raise ConfigError(
            f"LLaMA-Factory cannot train with the tuner {plan.tuner.name}", "plan with full, lora or dora"
        )
    return as_yaml(
        "For LLaMA-Factory: the last layers (below zero: the first).",
        {
            "model_name_or_path": plan.model.name,
            "finetuning_type": "freeze",
            "freeze_trainable_layers": _number_of_layers(plan),
            "freeze_trainable_modules": "all",
        },
    )


def _number_of_layers(plan: Plan) -> int:
    """How many of the last layers train; below zero, how many of the first."""
    k, layers = len(plan.layers), len(plan.model)
    if plan.layers == tuple(range(layers - k, layers)):
        return k
    if plan.layers == tuple(range(k)):
        return -k
    raise ConfigError(
        f"LLaMA-Factory can train the first or the last layers only, not {', '.join(map(str, plan.layers))}",
        "export to axolotl, or plan with the tuner lora, which LLaMA-Factory can put on any layers",
    )


def llama_factory_data(data: Told) -> Piece:
    """The data as keys of LLaMA-Factory's YAML, and the entries of the `dataset_info.json` that they need.

    Read at commit ff6d4d1: `data/README.md`, `hparams/data_args.py`, and `data/parser.py`, `converter.py`,
    `template.py` and `processor/` for what becomes of the rows. See
    https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md.

    Raises:
        ConfigError: LLaMA-Factory would learn something else.
    """
    form, more, note = _FORMS[data.form](data)
    if getattr(data.task, "cut", "end") == "start":
        data.refuse("does not cut a conversation at its start", "leave it out, or give a greater length", "cut")
    info: dict[str, dict[str, Any]] = {}
    for one in data.files():
        if isinstance(one, HubData):
            name, where = one.name, {"hf_hub_url": one.name, "subset": one.config or None, "split": one.split}
        else:
            name, where = Path(one[0]).stem, {"file_name": one[0]}
        name = re.sub(r"\W+", "_", name)
        name += f"_{len(info) + 1}" if name in info else ""
        info[name] = {key: value for key, value in where.items() if value} | form
    content = {
        **more,
        "dataset": ",".join(info),
        "dataset_dir": str(data.folder.absolute()),
        "cutoff_len": data.max_length,
    }
    return Piece(content, [*data.notes, note], {"dataset_info.json": info})


def _messages(data: Told) -> tuple[dict[str, Any], dict[str, Any], str]:
    (role, content), names = data.voices()
    _check_order(data)
    tags = {"role_tag": role, "content_tag": content}
    for tag, meant in (("user_tag", "user"), ("assistant_tag", "assistant"), ("system_tag", "system")):
        speakers = [name for name, one in names.items() if one == meant]
        if len(speakers) > 1:
            data.refuse(
                f"takes one name for a speaker, and {', '.join(speakers)} are one", "take one", "messages_column"
            )
        tags[tag] = (speakers or [meant])[0]
    columns = {"messages": data.columns["messages_column"]}
    return {"formatting": "sharegpt", "columns": columns, "tags": tags}, _learned(data), TEMPLATE


def _check_order(data: Told) -> None:
    """Refuses what it would leave out, or write in words of its own."""
    for number, one in enumerate(data.conversations, 1):
        messages = one["messages"]
        roles = [m["role"] for m in messages[messages[0]["role"] == "system" :]]
        if "tools" in one or any("tool_calls" in m or m["role"] == "tool" for m in messages):
            data.refuse("writes tools and their calls in words of its own", "leave such rows out", "tools_column")
        if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
            data.refuse(
                f"leaves out conversations where user and assistant do not take turns, as in row {number}",
                "write them so",
                "messages_column",
            )


def _instruction(data: Told) -> tuple[dict[str, Any], dict[str, Any], str]:
    data.check_texts("instruction_column", "output_column")
    if "input_column" in data.columns and any(cell for (cell,) in data.texts_of("input_column")):
        data.refuse("joins instruction and input by one line break, and wheretune by two", AS_MESSAGES, "input_column")
    if any("tools" in one for one in data.conversations):
        data.refuse("writes tools in words of its own", "leave such rows out", "tools_column")
    columns = {"prompt": data.columns["instruction_column"], "response": data.columns["output_column"]}
    return {"formatting": "alpaca", "columns": columns}, _learned(data), TEMPLATE


def _learned(data: Told) -> dict[str, Any]:
    """Which turns of a chat are learned."""
    if data.task.chat_template is not None:  # type: ignore[union-attr]
        data.refuse("takes templates of its own or the tokenizer's", "give the tokenizer this one", "chat_template")
    learned = {"train_on_prompt": True} if data.everything else {"mask_history": data.last_alone}
    return {"stage": "sft", **learned}


def _text(data: Told) -> tuple[dict[str, Any], dict[str, Any], str]:
    return {"formatting": "alpaca", "columns": {"prompt": data.columns["text_column"]}}, {"stage": "pt"}, PACKED


def _joined(data: Told) -> tuple[dict[str, Any], dict[str, Any], str]:
    data.refuse(
        "joins no two texts as they stand with an end token",
        f"{AS_MESSAGES}, or export to axolotl",
        "source_column" if data.form == "generation" else "prompt_column",
    )


_FORMS = {
    "messages": _messages, "instruction": _instruction, "text": _text, "prompt": _joined, "turns": _joined,
    "generation": _joined,
}  # fmt: skip
