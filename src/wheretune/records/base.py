"""What every record can do: describe an object, go to JSON and come back, refuse what does not fit, and be looked at.

A record is plain data that rooms hand each other. This room opens neither torch nor rich: how a record looks in a
terminal, in a notebook or as a figure is the concern of `show`, which is opened when somebody looks.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from wheretune.errors import ConfigError
from wheretune.support.files import write_json

Written = TypeVar("Written")
AGAIN = "make it again with this version of wheretune"
FILES: Mapping[str, tuple[str, frozenset[str], str]] = {  # by record: its file in words, by which keys it is known,
    "LayerScores": (
        "scores file",
        frozenset({"scorer", "n_samples", "layers"}),
        "wheretune score",
    ),  # and what writes it
    "Plan": ("plan", frozenset({"layers", "selector", "cost"}), "wheretune plan"),
    "RunResult": ("result of a run", frozenset({"spec", "plan", "metrics"}), "wheretune tune"),
    "Manifest": ("manifest of a tuned model", frozenset({"plan", "sha256"}), "wheretune tune"),
    "Comparison": ("comparison", frozenset({"methods", "learning_rates"}), "wheretune compare"),
    "Cost": ("cost", frozenset({"lines", "tokens", "batch_size"}), "wheretune cost"),
    "RunSpec": ("spec of a run", frozenset({"model", "train"}), "wheretune tune (in its result.json)"),
}
LATER = {"later": True}  # metadata of a field with a default that was not there from the beginning: see `said`
LARGEST = 1e100  # of numbers in records, so that sums and products of them have an end


@dataclass_transform(frozen_default=True)
def record(kind: type[Written]) -> type[Written]:
    """A frozen dataclass that `from_json` reads: unknown keys and numbers that are not finite are refused."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


@record
class Spec:
    """Enough to build an object again: its name in `catalog` and its hyperparameters.

    A hyperparameter that is an object itself is a `Spec` too.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", {key: _inner(value) for key, value in self.params.items()})

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(to_json(self), sort_keys=True)))

    @classmethod
    def of(cls, thing: Any) -> Spec:
        """The spec of a frozen dataclass with a class attribute `name`."""
        return cls(thing.name, said(thing))

    def __str__(self) -> str:
        given = {key: value for key, value in self.params.items() if value is not None and value is not False}
        inside = ", ".join(f"{key}={_shown(value)}" for key, value in given.items())
        return f"{self.name}({inside})" if inside else self.name


def _shown(value: Any) -> str:
    """A hyperparameter as it is written on the command line."""
    if isinstance(value, tuple):
        return "+".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _inner(value: Any) -> Any:
    """A hyperparameter as a spec holds it, whether it comes from an object or from JSON."""
    if isinstance(value, Spec):
        return value
    if isinstance(value, Mapping) and set(value) == {"name", "params"}:
        return Spec(value["name"], dict(value["params"]))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "name"):
        return Spec.of(value)
    return tuple(value) if isinstance(value, list | tuple) else value


def require(fits: bool, problem: str) -> None:
    """Refuses a record that contradicts itself.

    Raises:
        ValueError: It does not fit; `from_json` adds where it was read.
    """
    if not fits:
        raise ValueError(problem)


# --- JSON ----------------------------------------------------------------------------------------


def to_json(thing: Any) -> dict[str, Any]:
    """A record as a JSON object (tuples become lists)."""
    content: dict[str, Any] = json.loads(json.dumps(thing, default=said, allow_nan=False))
    return content


def said(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are written down.

    A field that is marked as `LATER` is left out while it stands at its default. So all that was written before the
    field was there stays what is written now: files, what folders are claimed for, and digests.
    """
    parts = [(part, getattr(thing, part.name)) for part in dataclasses.fields(thing)]
    return {part.name: value for part, value in parts if part.metadata != LATER or value != _default(part)}


def _default(part: dataclasses.Field[Any]) -> Any:
    """What a field holds where nothing is given; `MISSING` where something must be."""
    return part.default if part.default_factory is dataclasses.MISSING else part.default_factory()


def renewed(now: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote of a record, as this one writes it: fields that are missing stand at their default.

    Args:
        now: A record of the same kind, which says the fields without a default that are missing.
        content: What was written; what is no field of the record stays, and so does all of what cannot be read.
    """
    parts = {part.name: part for part in dataclasses.fields(now)}
    needed = [name for name, part in parts.items() if _default(part) is dataclasses.MISSING]
    try:
        known = {name: getattr(now, name) for name in needed} | {k: v for k, v in content.items() if k in parts}
        return {**content, **to_json(from_json(type(now), json.loads(json.dumps(known, default=said)), "a record"))}
    except ConfigError:
        return dict(content)


def from_json(kind: type[Written], content: object, origin: str) -> Written:
    """The record that `content` describes.

    Args:
        kind: The record's class.
        content: What `json.loads` gave.
        origin: Where it was read, for the message.

    Raises:
        ConfigError: A key is missing, unknown or of the wrong type, a number is not finite, or the record contradicts
            itself; the place in it is named.
    """
    try:
        _check_numbers(content, "")
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _refusal(kind, content, origin, f"{where}: {_why(first)}" if where else _why(first)) from error
    except ConfigError as error:  # a setting that no command would take either
        raise ConfigError(f"{origin} is not a valid {_file(kind)}: {error.problem}", error.remedy) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(kind, content, origin, str(error)) from error


def _refusal(kind: type, content: object, origin: str, why: str) -> ConfigError:
    """Why a file is none of a kind; of a file of another kind, what it is and what writes the one that is wanted."""
    there = _kind_of(content)
    if kind.__name__ in FILES and there not in (None, kind.__name__):
        wanted, _, command = FILES[kind.__name__]
        return ConfigError(f"{origin} is a {FILES[str(there)][0]}, and a {wanted} is wanted", f"{command} writes one")
    return ConfigError(f"{origin} is not a valid {_file(kind)}: {why}", AGAIN)


def _kind_of(content: object) -> str | None:
    """Which record a file's content looks like."""
    if not isinstance(content, Mapping):
        return None
    if isinstance(content.get("scores"), list):
        return "LayerScores"
    return next((name for name, (_, keys, _) in FILES.items() if keys <= content.keys()), None)


def _file(kind: type) -> str:
    """What a record is called where its file is: the words of `FILES`, or its name taken apart."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    return FILES[kind.__name__][0] if kind.__name__ in FILES else words


def _why(error: Any) -> str:
    """What pydantic says, in words for who wrote a file and not a class."""
    said = {
        "unexpected_keyword_argument": "unknown field",
        "extra_forbidden": "unknown field",
        "missing": "it is missing",
        "dataclass_type": "give fields with values",
        "dict_type": "give names with values",
    }.get(error["type"])
    words: str = error["msg"].removeprefix("Value error, ")
    return said or f"{words[:1].lower()}{words[1:]}"


def _check_numbers(content: object, where: str) -> None:
    """Refuses numbers with which nothing can be computed.

    Raises:
        ValueError: A whole number that 64 bits do not hold, or another above `LARGEST` or without end.
    """
    if isinstance(content, dict | list):
        inside = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in inside:
            _check_numbers(value, f"{where}.{key}" if where else str(key))
    elif isinstance(content, int):
        require(abs(content) < 2**63, f"{where} is a number that is too large")
    elif isinstance(content, float):
        require(
            abs(content) <= LARGEST, f"{where} is a number that is too large, or none"
        )  # so is what is not a number


def save(thing: Any, path: str | Path) -> None:
    """Writes a record as a JSON file, whole or not at all."""
    write_json(Path(path), to_json(thing))


def load(kind: type[Written], path: str | Path) -> Written:
    """Reads what `save` wrote.

    Raises:
        ConfigError: There is no such file, it is not JSON, or it does not describe a `kind`.
    """
    return from_json(kind, read_json(path), str(path))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: There is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error})", "check that it is the right file") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


# --- how records look ----------------------------------------------------------------------------


class Shown:
    """A record that can be looked at, in a terminal and in a notebook."""

    def __rich__(self) -> Any:
        return looks("terminal", self)

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return looks("notebook", self)

    def _repr_html_(self) -> str:
        return str(looks("html", self))


def looks(how: str, *given: Any, **options: Any) -> Any:
    """What the function `how` of `show.records` makes of a record."""
    from wheretune.show import records

    return getattr(records, how)(*given, **options)


def peft_config(plan: Any, method: str, targets: str, options: Mapping[str, Any]) -> Any:
    """What `exports.peft` makes of a plan."""
    from wheretune.exports.peft import named_modules

    return named_modules(plan, method, targets, options)
