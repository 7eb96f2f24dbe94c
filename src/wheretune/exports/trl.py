"""A plan for TRL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.data.chat_templates import named_template
from wheretune.data.sources import HubData
from wheretune.data.turns import MARKED
from wheretune.exports.base import FREEZE, as_yaml, exactly, low_rank, unfrozen, whole_alpha
from wheretune.exports.data import Piece

if TYPE_CHECKING:
    from wheretune.exports.data import Told
    from wheretune.records.plan import Plan

AS_COLUMNS = "write its rows with the columns messages (of role and content), or prompt and completion"
MARKS = (
    "The tokenizer's chat template has to mark generation, or be one that TRL has a training template for; TRL refuses "
    "another. What is marked is learned: TRL warns where that leaves out the token that ends a turn, which "
    "`wheretune preview` always shows as learned."
)
TOOLS = (
    "Keys of tools and their calls that some rows have and others lack are null in those for TRL, whose table has one "
    "shape, and absent in wheretune; tools that are written as JSON texts are the same in both."
)
PACKED = (
    "Documents are packed one after the other in both. TRL packs a thousand at a time, may begin a piece with an end "
    "token, which is not learned then, and writes the tokenizer's beginning token, if it has one, before each document."
)


def trl(plan: Plan) -> str:
    """The plan as a config of `trl sft`, or as the line that freezes the rest in a script of one's own.

    Raises:
        ConfigError: TRL cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None or tuner.name == "pissa":  # TRL's own config has no word for PiSSA
        return as_yaml(
            f"TRL's own scripts do not read this key. In a script of yours, before the SFTTrainer is made:\n{FREEZE}",
            {
                "model_name_or_path": plan.model.name,
                "unfrozen_parameters": exactly(unfrozen(plan, "TRL")),
            },
        )
    return as_yaml(
        "For `trl sft --config`. The modules are named in full, so no other layer is touched.",
        {
            "model_name_or_path": plan.model.name,
            "use_peft": True,
            "lora_r": tuner.r,
            "lora_alpha": whole_alpha(tuner, "TRL"),
            "lora_dropout": tuner.dropout,
            "use_dora": tuner.name == "dora",
            "lora_target_modules": plan.targets(tuner.targets),
        },
    )


def trl_data(data: Told) -> Piece:
    """The data as keys of `trl sft --config`: those of its `DatasetMixtureConfig` and `SFTConfig`.

    Read in TRL 1.16: `scripts/utils.py`, `trainer/sft_config.py`, and `SFTTrainer._prepare_dataset` for what becomes of
    the columns. See https://huggingface.co/docs/trl/sft_trainer and https://huggingface.co/docs/trl/dataset_formats.

    Raises:
        ConfigError: TRL would learn something else.
    """
    columns = {**data.columns}
    form: dict[str, Any] = _FORMS[data.form](data, columns)
    sets: list[dict[str, Any]] = []
    for one in data.files():
        where = {"path": one.name, "name": one.config or None, "split": one.split} if isinstance(one, HubData) else {
            "path": one[1], "data_files": [one[0]], "split": "train"}  # fmt: skip
        sets.append({key: value for key, value in where.items() if value} | {"columns": list(columns.values())})
    if data.form != "text" and getattr(data.task, "cut", "end") == "start":
        form["truncation_mode"] = "keep_end"
    notes = [*data.notes, *([PACKED] if data.form == "text" else [])]
    if "tools_column" in columns:
        notes.append(TOOLS)
    if form.get("assistant_only_loss") and "chat_template_path" not in form:
        notes.append(MARKS)
    return Piece({"datasets": sets, "max_length": data.max_length, **form}, notes)


def _text(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    return {"dataset_text_field": columns["text_column"], "packing": True, "packing_strategy": "wrapped"}


def _prompt(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    _named(data, columns, {"prompt_column": "prompt", "completion_column": "completion"})
    data.check_texts("prompt_column", "completion_column")
    return {"completion_only_loss": not data.everything}


def _turns(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    """The completion's turns: both masks hold, so what the template writes behind the last turn is not learned."""
    _named(data, columns, {"prompt_column": "prompt", "completion_column": "completion"})
    for cells, made in zip(data.texts_of("prompt_column", "completion_column"), data.conversations, strict=True):
        if not all(isinstance(cell, list) for cell in cells) or [*cells[0], *cells[1]] != made["messages"]:
            data.refuse(
                "would read these prompts and completions otherwise than wheretune", AS_COLUMNS, "prompt_column"
            )
    return _marked(data) | {"completion_only_loss": not data.everything}


def _messages(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    (role, _), names = data.voices()
    _named(data, columns, {"messages_column": "messages" if role == "role" else "conversations"})
    if other := sorted(name for name, meant in names.items() if name != meant):
        data.refuse(f"leaves the name of a speaker as it is, such as {other[0]}", AS_COLUMNS, "messages_column")
    return _marked(data)


def _marked(data: Told) -> dict[str, Any]:
    """What learns the assistant's turns alone, with the template that marks them."""
    if data.last_alone:
        data.refuse("has no word for the last turn alone", "leave it out, or export to llama-factory", "turns")
    made: dict[str, Any] = {"assistant_only_loss": not data.everything}
    given = data.task.chat_template  # type: ignore[union-attr]
    if given is None:
        return made
    if not Path(given).is_file():
        data.refuse("takes a chat template from a file", "write it to one", "chat_template")
    if not data.everything and not MARKED.search(named_template(given) or ""):
        data.refuse("needs a chat template that marks generation", "mark the assistant's turns in it", "chat_template")
    return made | {"chat_template_path": str(Path(given).absolute())}


def _named(data: Told, columns: dict[str, str], names: dict[str, str]) -> None:
    for setting, name in (names | {"tools_column": "tools"}).items():
        if columns.get(setting, name) != name:
            data.refuse(f"reads the column {name}, not {columns[setting]}", f"call it {name} in the file", setting)


def _instruction(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    return data.refuse("reads no instruction and output", AS_COLUMNS, "instruction_column")


def _generation(data: Told, columns: dict[str, str]) -> dict[str, Any]:
    return data.refuse(
        "joins no source and target by a template",
        "write both as they are joined into the columns prompt and completion, for the task chat",
        "source_column",
    )


_FORMS = {
    "messages": _messages, "prompt": _prompt, "turns": _turns, "instruction": _instruction, "generation": _generation,
    "text": _text,
}  # fmt: skip
