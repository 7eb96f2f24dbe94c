"""A plan for Axolotl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wheretune.data.chat_templates import named_template
from wheretune.data.sources import HubData
from wheretune.exports.base import as_yaml, low_rank, unfrozen, whole_alpha
from wheretune.exports.data import Piece

if TYPE_CHECKING:
    from wheretune.exports.data import Told
    from wheretune.records.plan import Plan

EXTRA: dict[str, dict[str, Any]] = {
    "dora": {"peft_use_dora": True},
    "pissa": {"peft_init_lora_weights": "pissa"},
}
ENDS = (
    "Axolotl learns what an assistant says, and the end token behind it. Where the template ends a turn with another "
    "token, name that under `eot_tokens`. Reasoning that the template itself inserts is not learned; "
    "`wheretune preview` shows it as learned."
)
APART = "Axolotl reads what is given and what is learned apart; wheretune reads them as one text."
CUT = "Axolotl cuts an example that is too long at its end; wheretune cuts within the source."
DOCUMENTS = (
    "Axolotl cuts every document by itself; wheretune packs them, so that a piece begins where the one before ended. "
    "With `sample_packing: true` several share a piece and do not see each other."
)


def axolotl(plan: Plan) -> str:
    """The plan as a piece of Axolotl's YAML.

    Raises:
        ConfigError: Axolotl cannot train with the plan's tuner.
    """
    tuner = low_rank(plan)
    if tuner is None:
        return as_yaml(
            "For Axolotl: it trains what matches and freezes the rest.",
            {"base_model": plan.model.name, "unfrozen_parameters": unfrozen(plan, "Axolotl")},
        )
    content = {
        "base_model": plan.model.name,
        "adapter": "lora",
        "lora_r": tuner.r,
        "lora_alpha": whole_alpha(tuner, "Axolotl"),
        "lora_dropout": tuner.dropout,
        "lora_target_modules": plan.targets(tuner.targets),
    }
    return as_yaml("For Axolotl.", content | EXTRA.get(tuner.name, {}))


def axolotl_data(data: Told) -> Piece:
    """The data as keys of Axolotl's YAML.

    Read at commit 067b021: `docs/dataset-formats/conversation.qmd` and `utils/schemas/datasets.py`, and
    `prompt_strategies/chat_template.py`, `user_defined.py` and `completion.py` for what becomes of the rows. See
    https://docs.axolotl.ai/docs/dataset-formats/conversation.html.

    Raises:
        ConfigError: Axolotl would learn something else.
    """
    if data.form != "text" and data.table.has("system"):
        data.refuse("would put the column system before every text, and wheretune does not", "call it otherwise")
    if getattr(data.task, "cut", "end") == "start":
        data.refuse("cuts at the end alone", "leave it out, or give a greater length", "cut")
    form, notes = _FORMS[data.form](data)
    top = {"chat_template_jinja": form.pop("chat_template_jinja")} if "chat_template_jinja" in form else {}
    sets: list[dict[str, Any]] = []
    for one in data.files():
        where = {"path": one.name, "name": one.config or None, "split": one.split} if isinstance(one, HubData) else {
            "path": one[0], "ds_type": one[1]}  # fmt: skip
        sets.append({key: value for key, value in where.items() if value} | form)
    content = {
        "datasets": sets,
        **top,
        "train_on_inputs": data.everything,
        "sequence_len": data.max_length,
        "excess_length_strategy": "truncate",  # it leaves out what is too long otherwise
    }
    return Piece(content, [*data.notes, *notes])


def _messages(data: Told) -> tuple[dict[str, Any], list[str]]:
    if data.everything:
        data.refuse("learns no token that the template writes around what is said", "leave it out", "train_on")
    if (
        data.last_alone
    ):  # its documented null for `roles_to_train` is dropped by its own `model_dump(exclude_none=True)`
        data.refuse("has no word for the last turn alone", "leave it out, or export to llama-factory", "turns")
    (role, content), names = data.voices()
    form: dict[str, Any] = {
        "type": "chat_template",
        "field_messages": data.columns["messages_column"],
        "message_property_mappings": {"role": role, "content": content},
        "roles": {
            one: [name for name, meant in names.items() if meant == one] for one in dict.fromkeys(names.values())
        },
    }
    if template := named_template(data.task.chat_template):  # type: ignore[union-attr]
        form["chat_template_jinja"] = template
    tools = {"field_tools": data.columns["tools_column"]} if "tools_column" in data.columns else {}
    return form | tools | {"roles_to_train": ["assistant"], "train_on_eos": "turn"}, [ENDS]


def _prompt(data: Told) -> tuple[dict[str, Any], list[str]]:
    data.check_texts("prompt_column", "completion_column")
    return _joined(data.columns["prompt_column"], "{instruction}", data.columns["completion_column"]), [APART]


def _generation(data: Told) -> tuple[dict[str, Any], list[str]]:
    data.check_texts("source_column", "target_column")
    parts = data.task.parts[:-1]  # type: ignore[union-attr]
    if parts[-1][0].endswith(" "):
        data.refuse(
            "reads the target by itself",
            "end the template before {target} with something else than a blank",
            "template",
        )
    words = ["{instruction}" if is_field else part.replace("{", "{{").replace("}", "}}") for part, is_field in parts]
    return _joined(data.columns["source_column"], "".join(words), data.columns["target_column"]), [APART, CUT]


def _joined(given: str, words: str, learned: str) -> dict[str, Any]:
    return {
        "type": {
            "system_prompt": "",
            "field_instruction": given,
            "field_output": learned,
            "format": words,
            "no_input_format": words,
        }
    }


def _text(data: Told) -> tuple[dict[str, Any], list[str]]:
    return {"type": "completion", "field": data.columns["text_column"]}, [DOCUMENTS]


def _turns(data: Told) -> tuple[dict[str, Any], list[str]]:
    data.refuse(
        "reads messages from one column", "write prompt and completion as one list of messages", "prompt_column"
    )


def _instruction(data: Told) -> tuple[dict[str, Any], list[str]]:
    data.refuse(
        "writes words of its own around an instruction (its type alpaca), not the chat template",
        "write its rows as messages of role and content",
        "instruction_column",
    )


_FORMS = {
    "messages": _messages, "prompt": _prompt, "turns": _turns, "instruction": _instruction, "generation": _generation,
    "text": _text,
}  # fmt: skip
