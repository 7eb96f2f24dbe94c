"""Groups of options: a frozen dataclass per group, which a command takes as one parameter.

`expanded` turns a command's dataclass parameters into one option per field, in a panel of the help under the group's
name, and hands the command the dataclasses. A field that stands in several groups of a command is one option.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from functools import wraps
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform, get_args, get_type_hints

import typer

from wheretune.cli.usage import KINDS
from wheretune.errors import ConfigError

Kind = TypeVar("Kind")


class Group:
    """A group of options.

    Attributes:
        panel: Its heading in the help.
    """

    panel: ClassVar[str]


@dataclass_transform(frozen_default=True)
def group(kind: type[Kind]) -> type[Kind]:
    """A frozen dataclass that is neither compared nor printed, and so is made quickly."""
    return dataclass(frozen=True, eq=False, repr=False)(kind)


def option(flag: str, text: str, *, default: bool | str = True, axis: str | None = None, **more: Any) -> Any:
    """What typer is told of one option.

    Args:
        flag: `--name`.
        text: Its help.
        default: What the help says of the default, where that is not the value itself.
        axis: The axis whose names the shell completes.
        more: As for `typer.Option`.
    """
    if axis is not None:
        more["autocompletion"] = names_of(axis)
    return typer.Option(flag, help=text, show_default=default, **more)


def names_of(axis: str) -> Callable[[str], list[str]]:
    """What completes the last of several names of an axis with commas between them."""

    def complete(incomplete: str) -> list[str]:
        from wheretune import catalog

        before, comma, word = incomplete.rpartition(",")
        return [before + comma + name for name in catalog.names(axis) if name.startswith(word)]

    return complete


def expanded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with one option for each field of its groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    options: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        of_this = _options(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]
        for one in of_this:
            options.setdefault(one.name, _read(one).replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> Any:
        made = {name: kind(**{one.name: given[one.name] for one in fields(kind)}) for name, kind in groups.items()}
        plain = {name: given[name] for name in hints if name in given and name not in groups}
        return command(**plain, **made)

    run.__doc__ = re.sub(r"(?<=\S)\n *(?=\S)", " ", str(command.__doc__))  # the help breaks its lines itself
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in options.items()}
    return run


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """One parameter per field, with the group's panel; what a group adds to another stands before it."""
    hints = get_type_hints(group, include_extras=True)

    def rank(one: Any) -> int:
        return next(i for i, kind in enumerate(group.__mro__) if one.name in inspect.get_annotations(kind))

    for one in sorted(fields(group), key=rank):
        kind, info = get_args(hints[one.name])
        info = copy.copy(info)
        info.rich_help_panel = group.panel
        yield inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=Annotated[kind, info]
        )


def _read(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, whose numbers are read and refused by us: typer does it otherwise from release to release.

    Scripts of Transformers write 3.0 for a whole number.
    """
    kind, *infos = get_args(parameter.annotation) or (None,)
    number = next((one for one in (int, float) if kind in (one, one | None)), None)
    if number is None or not infos or infos[0].parser is not None:
        return parameter
    flag = f"--{parameter.name.replace('_', '-')}"

    def read(given: Any) -> int | float:
        try:
            value = Decimal(str(given))
            if number is int and value % 1:
                raise ValueError(given)
            return number(value)
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(f"{flag} is {given!r}", f"give {KINDS[number.__name__]}") from error

    read.__name__ = number.__name__
    info = copy.copy(infos[0])
    info.parser = read
    return parameter.replace(annotation=Annotated[kind, info])


# --- what commands do with options ---------------------------------------------------------------


def needed(value: Any, flag: str) -> Any:
    """The value of an option that a command cannot do without.

    Raises:
        ConfigError: It was not given.
    """
    if value is None:
        raise ConfigError(f"{flag} is missing", f"give {flag} (see --help for an example)")
    return value


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, in a config, or in a preset."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuses options that were given and would have no effect.

    Raises:
        ConfigError: One was given.
    """
    for name in names:
        if was_given(context, name):
            raise ConfigError(f"{flag_of(context.command, name)} has no effect with {why}", "give the one or the other")


def flag_of(command: Any, name: str | None) -> str | None:
    """The flag of a command's option, by the name of its field; None where it has no such option."""
    flags = {parameter.name: parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")}
    return flags.get(FIELDS.get(name or "", name or ""))


FIELDS = {  # settings that the command line calls by another name
    "last": "last_state",
    "packed": "pack",
    "name": "model",
    "share": "budget",
    "of": "budget_of",
    "where": "cache_prefix",
    "limit": "cache_limit",
    "folder": "cache_dir",
    "keep": "keep_cache",
    "selector": "select",
    "source": "train",
    "task": "task_name",
    "metrics": "metric",
    "tasks": "lm_eval",
    "include": "lm_eval_include",
    "plan": "plan_file",
    "rules": "decoding",
    "trainer_args": "trainer_arg",
    "executor": "on",
    "address": "on",
}
