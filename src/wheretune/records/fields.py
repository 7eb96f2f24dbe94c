"""What may stand in a field of settings, told from its annotation: how it is read, what fits, and what to say else."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wheretune.records.base import Spec
from wheretune.records.model import is_layer_name, layer_names


@dataclass(frozen=True)
class Kind:
    """What may stand in a field.

    Attributes:
        words: In words, for a message.
        read: Makes a value of what a user wrote; raises ValueError or KeyError if it is none.
        fits: Whether a value is one.
        keeps_spec: Whether a spec in it stays a spec.
    """

    words: str
    read: Callable[[str], Any]
    fits: Callable[[Any], bool]
    keeps_spec: bool = False


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _thing(value: Any) -> bool:
    return isinstance(value, Spec) or not isinstance(value, str | int | float | tuple | dict)


def _pairs(text: str) -> dict[str, str]:
    """What `name=word,name=word` says; the first `=` of a part divides it.

    Raises:
        ValueError: A part has no name or no word, or a name stands twice.
    """
    parts = [part.partition("=") for part in text.split(",")]
    pairs = {name.strip(): word.strip() for name, _, word in parts}
    if len(pairs) < len(parts) or not all((*pairs, *pairs.values())):
        raise ValueError(text)
    return pairs


def _several(what: str, read: Callable[[str], tuple[Any, ...]], fits: Callable[[Any], bool], such_as: str = "") -> Kind:
    """What stands between commas or plus signs; `read` is handed commas alone, `fits` one value."""
    return Kind(
        f"{what} with commas or + between them{such_as}",
        lambda text: read(text.replace("+", ",")),
        lambda value: isinstance(value, tuple) and all(map(fits, value)),
    )


_KINDS: Mapping[str, Kind] = {
    "int": Kind("a whole number", int, _whole),
    "float": Kind("a number", float, _number),
    "bool": Kind("true or false", {"true": True, "false": False}.__getitem__, lambda value: isinstance(value, bool)),
    "str": Kind("a text", str, lambda value: isinstance(value, str)),
    "Spec": Kind("a name", Spec, _thing, keeps_spec=True),
    "tuple[int, ...]": _several("whole numbers", lambda text: tuple(map(int, text.split(","))), _whole),
    "tuple[int | str, ...]": _several(
        "layers", layer_names, is_layer_name, such_as=", such as 1+4 or encoder.0+decoder.3"
    ),
    "tuple[float, ...]": _several("numbers", lambda text: tuple(map(float, text.split(","))), _number),
    "tuple[str, ...]": _several(
        "names", lambda text: tuple(text.split(",")) if text else (), lambda value: isinstance(value, str)
    ),
    "dict[str, str]": Kind(
        "name=word pairs with commas between them",
        _pairs,
        lambda value: isinstance(value, dict) and all(isinstance(part, str) for part in (*value, *value.values())),
    ),
}


def fields_of(made: Any) -> dict[str, Kind]:
    """By field of a dataclass that may be given, what its annotation says; nothing for what is no dataclass."""
    if not dataclasses.is_dataclass(made):
        return {}
    return {one.name: _kind(one.type) for one in dataclasses.fields(made) if one.init}


def _kind(annotation: Any) -> Kind:
    """What an annotation says; where it is none of ours, a spec of the same axis or an object fits."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    parts = [text] if text in _KINDS else [part for part in text.split(" | ") if part != "None"]
    if parts[0].startswith("Literal["):
        choices = ast.literal_eval(parts[0].removeprefix("Literal"))
        kind = Kind(" or ".join(map(str, choices)), str, lambda value: value in choices)
    else:
        kind = _KINDS.get(parts[0], Kind("a name", Spec, _thing))
    if "None" not in text.split(" | "):
        return kind
    return dataclasses.replace(kind, fits=lambda value: value is None or kind.fits(value))
