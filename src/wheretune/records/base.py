"""What every record can do: be a spec of an object, go to JSON and come back, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from wheretune.errors import ConfigError
from wheretune.support.files import write_json

Written = TypeVar("Written")


@dataclass_transform(frozen_default=True)
def record(kind: type[Written]) -> type[Written]:
    """A frozen dataclass that `from_json` reads; a key it does not know is refused."""
    kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


@record
class Spec:
    """Enough to build an object again: its name in `catalog` and its hyperparameters."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, thing: Any) -> Spec:
        """The spec of a frozen dataclass with a class attribute `name`; such a one inside it becomes a spec too."""
        params = {}
        for part in dataclasses.fields(thing):
            value = getattr(thing, part.name)
            inner = dataclasses.is_dataclass(value) and hasattr(value, "name")
            params[part.name] = dataclasses.asdict(cls.of(value)) if inner else value
        return cls(thing.name, params)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.name}({inside})" if inside else self.name


def to_json(thing: Any) -> dict[str, Any]:
    """A dataclass as a JSON object (tuples become lists)."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(thing), allow_nan=False))
    return content


def from_json(kind: type[Written], content: object, origin: str) -> Written:
    """The dataclass that `content` describes.

    Raises:
        ConfigError: A key is missing, unknown or of the wrong type; `origin` is named.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(
            f"{origin} is no {kind.__name__}: {where}: {first['msg'].lower()}",
            "make it again with this version of wheretune",
        ) from error


def save(thing: Any, path: str | Path) -> None:
    """Writes a dataclass as a JSON file, whole or not at all."""
    write_json(Path(path), to_json(thing))


def load(kind: type[Written], path: str | Path) -> Written:
    """Reads what `save` wrote.

    Raises:
        ConfigError: There is no such file, it is not JSON, or it does not describe a `kind`.
    """
    return from_json(kind, read_json(path), str(path))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error})", "check that it is the right file") from error
