"""What click says of a command line that it cannot read: the option, what it was given, and a way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "path": "a path"}


def said(error: Any, commands: Iterable[str]) -> str:
    """Problem and way out, in one line.

    Args:
        error: A `UsageError`.
        commands: The names of all commands.
    """
    option, context, message = getattr(error, "option_name", None), getattr(error, "ctx", None), str(error.message)
    message = message.removeprefix("Value error, ")
    if option is not None and context is not None and message.startswith("No such option"):
        known = [one for parameter in context.command.params for one in parameter.opts if one.startswith("--")]
        return f"there is no option {option}; {near(option, known)}"
    if wrong := re.match(r"No such command '(.*?)'", message):
        return f"there is no command {wrong[1]!r}; {near(wrong[1], commands)}"
    if (value := _of_value(error, message)) is not None:
        return value
    text = str(error.format_message()).replace("Value error, ", "").removesuffix(".")
    return f"{text}; see --help"


def _of_value(error: Any, message: str) -> str | None:
    """What is wrong with the value of an option; None where it is something else."""
    parameter, cause = getattr(error, "param", None), getattr(error, "__cause__", None)
    if parameter is not None and parameter.opts and cause is not None and hasattr(cause, "errors"):
        (first, *_) = cause.errors()
        kind = KINDS.get(first["type"].split("_")[0])
        if kind is not None:
            return f"{parameter.opts[0]} is {first['input']!r}; give {kind}"
    if parameter is not None and (choice := re.search(r"'(.*)' is not (one of )?'", message)):
        kind = getattr(parameter, "type_descriptor", None) or parameter.type  # by typer's release
        words = ", ".join(map(str, kind.choices))
        return f"{parameter.opts[0]} is {choice[1]!r}; give {words}"
    return None


def near(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant; where none is like it, where they stand."""
    written = {one.removeprefix("--"): one for one in known}
    close = difflib.get_close_matches(name.removeprefix("--"), written, n=1, cutoff=0.7)
    return f"did you mean {written[close[0]]}?" if close else "see --help"
