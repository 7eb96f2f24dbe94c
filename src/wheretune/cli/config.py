"""Where options get their values from, beside the command line: a config file, a preset, a recipe.

Each fills in defaults, so the command line has the last word; a config goes before a preset or a recipe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from wheretune.cli import aliases
from wheretune.cli.usage import near
from wheretune.errors import ConfigError
from wheretune.support.files import at_home

COUNTS = {"k", "ratio"}
LISTS = frozenset((  # options of one text in which several values stand with commas between them
    "data", "layers", "learning-rates", "lm-eval", "methods", "report-to", "scorer", "seeds", "test", "train",
    "validation",
))  # fmt: skip
PAIRS = frozenset(("memory-limit", "verbalizer"))  # likewise, name=value each
OPTIONS = frozenset(("trainer-arg", "tuner-option"))  # which may be repeated, name=value each
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Takes the options of a YAML or JSON file as defaults."""
    if path is None or context.resilient_parsing:
        return path
    content = read_yaml(path, "--config")
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no options", "write one `option: value` per line")
    content = {"on" if key is True else key: value for key, value in content.items()}  # YAML 1.1 takes `on` for true
    _fill(context, _values(context, path, content), last_word=True)
    return path


def _values(context: typer.Context, path: Path, content: dict[Any, Any]) -> dict[str, Any]:
    """By parameter of the command, what the file says, as text that typer reads as it reads the command line."""
    flags = [(flag, parameter) for parameter in context.command.params for flag in parameter.opts]
    known = {flag.removeprefix("--").replace("-", "_"): one for flag, one in flags if one.name != "config"}
    values: dict[str, Any] = {}
    for key, value in _in_our_words(content, {flag: parameter for flag, parameter in flags}).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path} has the unknown key {key!r}", near(name, known))
        if value is None:
            continue
        flag, several = known[name].opts[0].removeprefix("--"), getattr(known[name], "multiple", False)
        texts = _texts(path, flag, value, several)
        values[str(known[name].name)] = texts if several else ",".join(texts)
    return values


def _texts(path: Path, flag: str, value: Any, several: bool) -> list[str]:
    """The values of one option, as they would be typed.

    Raises:
        ConfigError: There is a list or a mapping, and the option takes none.
    """
    if isinstance(value, dict) and flag in PAIRS | OPTIONS:
        return [f"{key}={_option(inner)}" for key, inner in value.items()]
    lists = several or flag in LISTS | PAIRS
    if isinstance(value, list) and lists:
        return [text for one in value for text in _texts(path, flag, one, several)]
    if isinstance(value, dict | list):
        what = "a mapping (`name: value`)" if isinstance(value, dict) else "a list"
        raise ConfigError(f"{path} has {what} under {flag}", f"give one value{' or a list of them' if lists else ''}")
    return [at_home(str(value))]


def _in_our_words(content: Mapping[Any, Any], own: Mapping[str, Any]) -> dict[Any, Any]:
    """The same options with those that Transformers' and TRL's scripts have under other names in ours."""
    names = {name: aliases.key(str(name)) for name in content}
    theirs = {name for name, key in names.items() if key in aliases.KNOWN and f"--{key}" not in own}
    ours = {name: value for name, value in content.items() if name not in theirs}
    given = {names[name]: _theirs(names[name], content[name]) for name in theirs if content[name] is not None}
    for flag, value in aliases.in_our_words(given, own):
        wanted = flag.removeprefix("--")
        name = next((name for name in ours if names.get(name) == wanted), wanted)
        several = getattr(own[flag], "multiple", False)
        ours[name] = [*_listed(ours.get(name)), value] if several else value or True
    return ours


def _theirs(name: str, value: Any) -> list[str]:
    """The values of an option of theirs; several of one that takes one stand with commas between them."""
    if isinstance(value, list) and name in aliases.SEVERAL:
        return list(map(str, value))
    if isinstance(value, dict) and name not in aliases.TRAINERS:
        raise ConfigError(f"there is a mapping (`name: value`) under {name}", "give one value")
    return [_option(value)]


def _listed(value: Any) -> list[Any]:
    """A value of an option as one of several; none where there is none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def read_yaml(path: Path, flag: str) -> Any:
    """The content of a YAML (or JSON) file; `1e-3` is a number in it, as in JSON.

    Raises:
        ConfigError: It cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 takes 1e-3 for a word."""

    Loader.yaml_implicit_resolvers = {key: [*value] for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", f"check the path given as {flag}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML ({reason})", "write one `option: value` per line") from error


def _option(value: Any) -> str:
    """The value of one of several options that stand in one."""
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(at_home(str(one)) for one in _listed(value))


def read_preset(context: typer.Context, name: str | None) -> str | None:
    """Takes a paper's choices as defaults."""
    if name is None or context.resilient_parsing:
        return name
    from wheretune import catalog
    from wheretune.recipes.presets import presets

    known = presets()
    if name not in known:
        raise ConfigError(f"there is no preset {name!r}", catalog.nearest(name, known), "preset")
    _fill(context, known[name].options)
    return name


def read_recipe(context: typer.Context, name: str | None) -> str | None:
    """Takes a paper's methods and hyperparameters as defaults."""
    if name is None or context.resilient_parsing:
        return name
    from wheretune import catalog

    _fill(context, catalog.find("recipe", name).defaults)
    return name


def _fill(context: typer.Context, values: Mapping[str, Any], *, last_word: bool = False) -> None:
    """Takes values as defaults beside those that are there; k and ratio are two ways of saying one thing."""
    there = context.default_map or {}
    weak, strong = (there, values) if last_word else (values, there)
    if COUNTS & set(strong):
        weak = {name: value for name, value in weak.items() if name not in COUNTS}
    context.default_map = {**weak, **strong}


def one_count(context: typer.Context, k: int | None, ratio: float | None) -> tuple[int | None, float | None]:
    """Layers to tune, as a number or as a share; the one that was typed puts aside the one from elsewhere.

    Raises:
        ConfigError: Both were typed.
    """
    if k is None or ratio is None:
        return k, ratio
    sources = {name: context.get_parameter_source(name) for name in COUNTS}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if len(typed) != 1:
        raise ConfigError("--k and --ratio both say how many layers", "give the one or the other")
    return (k, None) if "k" in typed else (None, ratio)
