"""What people call a conversation -> messages: roles and contents, ShareGPT's turns, prompts and completions, Alpaca's.

A conversation is kept as one string, its JSON: `messages` (with `tools`, and `given`, how many of the first messages
are not to be learned), or `prompt` and `completion`, which are joined as they stand. What a table filled with null is
left out, however deep it lies. A content is one text; only where images stand in it, it is a list of parts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np

from wheretune.data.cells import plain, whole_text

SPEAKERS = {  # ShareGPT's speakers, as roles
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
SAYS = ("content", "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")  # what makes a message

IMAGE = {"type": "image"}  # the place of an image in a content


class BadRow(ValueError):
    """Why a row is no conversation; the message goes before "in row 3"."""


def of_messages(cell: object, tools: object = None) -> str:
    """A list of messages, of either kind, that may be written as JSON.

    Raises:
        BadRow: It is none.
    """
    return _written({"messages": _messages(cell), "tools": _tools(tools)})


def of_prompt(prompt: object, completion: object, tools: object = None) -> str:
    """What is given and what is learned: two texts, which are joined as they stand, or messages.

    Raises:
        BadRow: One is missing, or is neither a text nor messages.
    """
    before, after = _text_or_messages(prompt), _text_or_messages(completion)
    if before is None or after is None:
        raise BadRow(f"no {'prompt' if before is None else 'completion'}")
    if isinstance(before, str) and isinstance(after, str):
        return _written({"prompt": before, "completion": after})
    given = [{"role": "user", "content": before}] if isinstance(before, str) else _messages(before)
    learned = [{"role": "assistant", "content": after}] if isinstance(after, str) else _messages(after)
    return _written({"messages": given + learned, "tools": _tools(tools), "given": len(given)})


def of_instruction(instruction: object, more: object, output: object, tools: object = None) -> str:
    """Alpaca's columns: the instruction and, after a blank line, the input if there is one; then the output.

    Raises:
        BadRow: The instruction or the output is missing, or one is no text.
    """
    cells = [_worded(cell) for cell in (instruction, more, output)]
    for name, cell in zip(("instruction", "input", "output"), cells, strict=True):
        if cell is None and name != "input":
            raise BadRow(f"no {name}")
        if cell is not None and not isinstance(cell, str):
            raise BadRow(f"no text as {name}")
    asked = "\n\n".join(str(cell) for cell in cells[:2] if cell is not None)
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": cells[2]}]
    return _written({"messages": messages, "tools": _tools(tools)})


def _written(conversation: dict[str, Any]) -> str:
    """The JSON of a conversation.

    Raises:
        BadRow: It has half a character, or something that JSON has no word for.
    """
    try:
        text = json.dumps({k: v for k, v in conversation.items() if v is not None}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRow(f"something that is no text ({error})") from error
    if not whole_text(text):
        raise BadRow("half a character (a lone surrogate)")
    return text


def _worded(cell: object) -> object:
    """A cell without gaps, with numbers as words."""
    cell = plain(without_gaps(cell))
    return str(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else cell


def _text_or_messages(cell: object) -> object:
    """A cell that is a text or messages; a text that is JSON of something else stays as it stands."""
    found = _turned(cell)
    if not (isinstance(cell, str) and isinstance(found, list)):
        return found
    return found if all("role" in one or "from" in one for one in found) else cell


def _turned(cell: object) -> object:
    """A cell with Python's own lists, without gaps; a list that is written as JSON is read."""
    cell = _worded(cell)
    if isinstance(cell, str) and cell.lstrip()[:2] in ("[{", "[ ", "[\n"):
        try:
            found = without_gaps(json.loads(cell))
        except (ValueError, RecursionError):
            return cell
        return found if isinstance(found, list) and found and all(isinstance(one, dict) for one in found) else cell
    return cell


def without_gaps(value: Any) -> Any:
    """A value whose objects have no key that is null, however deep, with lists in place of arrays and tuples."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        kept = {str(key): without_gaps(one) for key, one in value.items() if not _gap(one)}
        return {key: one for key, one in kept.items() if one is not None}
    if isinstance(value, list | tuple):
        return [without_gaps(one) for one in value]
    return value


def _gap(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _tools(cell: object) -> list[Any] | None:
    """The tools of a row, that may be written as JSON; None where there are none.

    Raises:
        BadRow: They are no list of objects.
    """
    cell = without_gaps(cell)
    if _gap(cell) or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        found: Any = json.loads(cell) if isinstance(cell, str) else cell
        listed = found if isinstance(found, list) else [found]
        every = [json.loads(one) if isinstance(one, str) else one for one in listed if one is not None]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRow("tools that are no JSON") from error
    if not all(isinstance(one, dict) for one in every):
        raise BadRow("tools that are no list of objects")
    return without_gaps(every) or None


def _messages(cell: object) -> list[dict[str, Any]]:
    found = _turned(cell)
    if isinstance(found, str) and found.strip() == "[]":
        found = []
    if isinstance(found, dict) and found and all(isinstance(cells, list) for cells in found.values()):
        found = [dict(zip(found, cells, strict=False)) for cells in zip(*found.values(), strict=False)]  # by columns
        found = without_gaps(found)
    if found is None:
        raise BadRow("no conversation")
    if not isinstance(found, list):
        raise BadRow("no list where messages belong")
    every = [one for one in found if one is not None]
    if not every:
        raise BadRow("an empty conversation")
    return [_message(one) for one in every]


def _message(one: object) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise BadRow("a message that is no object")
    if "from" in one and "role" not in one:
        one = _shared(one)
    role = one.get("role")
    if not isinstance(role, str) or not role.strip():
        raise BadRow("a message without a role")
    message = {**one, "role": role.strip()}
    if not message.get("tool_calls", True):
        del message["tool_calls"]
    if not any(name in message for name in SAYS):
        raise BadRow(f"a message of {role!r} without content")
    if "content" in message:
        message["content"] = _content(message["content"])
    return message


def _content(content: object) -> str | list[dict[str, str]]:
    """A content as one text: its parts follow each other as they stand; as parts where some are places of images."""
    if isinstance(content, str):
        return content
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    if not isinstance(content, list):
        raise BadRow("a content that is no text")
    made = [_part(part) for part in content if part is not None]
    if IMAGE not in made:
        return "".join(part["text"] for part in made)
    runs = [(kind, list(run)) for kind, run in groupby(made, key=lambda part: part["type"])]
    return [
        one
        for kind, run in runs
        for one in (run if kind == "image" else [{"type": "text", "text": "".join(part["text"] for part in run)}])
    ]


def _part(part: object) -> dict[str, str]:
    """A part of a content: a text, or the place of an image."""
    kind = part.get("type", "text") if isinstance(part, dict) else "text"
    text = part.get("text", "" if kind == "text" else None) if isinstance(part, dict) else part
    if kind == "image" and isinstance(part, dict):
        if any(value not in ("", "image") for value in part.values()):
            raise BadRow("an image whose part says what it is (its path belongs into the column of images)")
        return dict(IMAGE)
    if not isinstance(text, str) or kind != "text":
        raise BadRow(f"a content with {kind if isinstance(kind, str) else 'something'!r} in it, which is no text")
    return {"type": "text", "text": text}


def _shared(one: dict[str, Any]) -> dict[str, Any]:
    """A turn of ShareGPT's as a message.

    Raises:
        BadRow: The speaker is unknown, or a call of a function is no JSON.
    """
    speaker = one["from"]
    if speaker not in SPEAKERS:
        raise BadRow(f"the speaker {speaker!r}, which is not known,")
    message = {key: value for key, value in one.items() if key not in ("from", "value")}
    message = {"role": SPEAKERS[speaker], **message}
    if speaker != "function_call":
        return message | ({"content": one["value"]} if "value" in one else {})
    try:
        said = json.loads(one["value"]) if isinstance(one.get("value"), str) else one.get("value")
        calls = [{"name": c["name"], "arguments": c.get("arguments", {})} for c in said_calls(said)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadRow("a call of a function that is no JSON") from error
    return message | {"tool_calls": [{"type": "function", "function": call} for call in calls]}


def said_calls(said: Any) -> list[dict[str, Any]]:
    """One call or several, as a list without gaps; arguments that are written as JSON are read."""
    calls = without_gaps(said if isinstance(said, list) else [said])
    for call in calls:
        if isinstance(call.get("arguments"), str):
            call["arguments"] = without_gaps(json.loads(call["arguments"]))
    return list(calls)
