"""Which chat template writes a conversation: the tokenizer's own, one of a file, or a simple one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wheretune.errors import ConfigError, ModelError

NAMED = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}  # by name, for a base model: the first for one that has its two tokens, the second for any


def named_template(given: str | None) -> str | None:
    """The template that a setting means: a name of ours, a file, or a template as it stands; None is the tokenizer's.

    Raises:
        ConfigError: It is none of these.
    """
    if given is None or given in NAMED:
        return NAMED.get(given or "")
    if "{%" in given or "{{" in given:
        return given
    if not Path(given).is_file():
        raise ConfigError(
            f"the chat template {given} is neither a file nor {' nor '.join(NAMED)}", "give one", "chat_template"
        )
    return Path(given).read_text(encoding="utf-8")


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def require_template(tokenizer: Any, template: str | None) -> None:
    """Refuses a tokenizer without a chat template where none was given.

    Raises:
        ModelError: It has none.
    """
    if template is None and not has_template(tokenizer):
        raise ModelError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: it is a base model",
            "give one with chat_template=plain (or chatml, or a file), or take the instruction-tuned model",
            "chat_template",
        )
