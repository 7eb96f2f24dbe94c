"""What a scorer gathered on one machine, written to a file, and many such files merged into scores.

A shard is one safetensors file: the tensors of the scorers' states, and in its metadata, as JSON, everything else. Only
the dataclasses that a scorer names in `kinds` are ever made from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.records.base import Spec, from_json
from wheretune.records.data import DataInfo
from wheretune.records.model import LayerParts, ModelInfo
from wheretune.scorers.base import Finished, GradientScorer, StackScorer, StreamScorer
from wheretune.scoring.one_pass import Gathered, finish
from wheretune.support.files import write
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores
    from wheretune.scorers.base import Scorer

FORMAT = 2
KEY = "wheretune.shard"


def save_shard(gathered: Gathered, path: Path) -> None:
    """Writes what a pass over one shard gathered.

    Raises:
        OutputError: The place cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    states = [_pack(state, tensors) for state in gathered.states.values()]
    content = {
        "format": FORMAT,
        "shard": gathered.shard,
        "specs": [dataclasses.asdict(spec) for spec in gathered.specs],
        "model": dataclasses.asdict(gathered.model),
        "data": dataclasses.asdict(gathered.data),
        "layers": [(path, size, dataclasses.asdict(parts)) for path, size, parts in gathered.layers],
        "n_samples": gathered.n_samples,
        "seconds": gathered.seconds,
        "batch_size": gathered.batch_size,
        "versions": gathered.versions,
        "tokens": gathered.tokens,
        "states": states,
    }
    write(path, lambda draft: save_file(tensors, draft, {KEY: json.dumps(content)}))


def merge_scores(paths: Sequence[Path]) -> list[LayerScores]:
    """The scores of all shards together: what one pass over the whole data gives.

    Raises:
        ConfigError: A file is no shard, belongs to another pass, is there twice, or one is missing.
        ScoreError: A score is not finite, or there were too few samples.
    """
    found = [_read(path) for path in paths]
    first, of = found[0], found[0]["shard"][1]
    for path, content in zip(paths, found, strict=True):
        differs = [key for key in _COMMON if _COMMON[key](content) != _COMMON[key](first)]
        if differs:
            raise ConfigError(
                f"{path} and {paths[0]} are shards of different passes ({differs[0]})", "merge like shards"
            )
        if content["versions"] != first["versions"]:
            log.warning("%s and %s were made with different versions of the packages", path, paths[0])
    numbers = [content["shard"][0] for content in found]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ConfigError(f"shard {twice[0]} of {of} is given twice", "give each once")
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if missing:
        raise ConfigError(
            f"shard {missing[0]} of {of} is missing", f"run score --shard {missing[0]}/{of} and merge all"
        )
    ordered = [content for _, content in sorted(zip(numbers, found, strict=True), key=lambda pair: pair[0])]
    states: dict[Scorer, Any] = {}
    for place, scorer in enumerate(first["scorers"]):
        parts = [content["states"][place] for content in ordered]
        states[scorer] = parts[0] if isinstance(scorer, StackScorer) else reduce(scorer.merge, parts)
    return finish(
        Gathered(
            states=states,
            specs=first["specs"],
            model=first["model"],
            data=first["data"],
            layers=first["layers"],
            n_samples=sum(content["n_samples"] for content in found),
            seconds=sum(content["seconds"] for content in found),
            settlement=None,
            shard=(1, 1),
            batch_size=first["batch_size"],
            versions=first["versions"],
            tokens=sum(content["tokens"] for content in found),
        )
    )


_COMMON: dict[str, Callable[[dict[str, Any]], Any]] = {
    # What shards must have in common: models by their weights and data by content, wherever they lie on each machine.
    "number of shards": lambda content: content["shard"][1],
    "scorers": lambda content: content["specs"],
    "model": lambda content: content["model"].hash,
    "data": lambda content: content["data"].hash,
    "how the data is read": lambda content: dataclasses.replace(content["data"].spec, source=""),
    "layers": lambda content: content["layers"],
    "batch size": lambda content: content["batch_size"],
}


def _read(path: Path) -> dict[str, Any]:
    """A shard with everything in it made again; whatever does not fit is an error that names the file."""
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        if content["format"] != FORMAT:
            raise ConfigError(f"{path} was written by another version of wheretune", "score that shard again")
        number, of = content["shard"]
        specs = tuple(Spec(**spec) for spec in content["specs"])
        scorers = [_scorer(spec) for spec in specs]
        states = [_unpack(s, tensors, _kinds(scorer)) for s, scorer in zip(content["states"], scorers, strict=True)]
        model = from_json(ModelInfo, content["model"], str(path))
        layers = tuple(
            (str(name), int(size), from_json(LayerParts, parts, str(path))) for name, size, parts in content["layers"]
        )
        if len(layers) != model.layers or not 1 <= int(number) <= int(of) or not specs:
            raise ValueError("layers, shard or scorers do not fit")
        return {
            "shard": (int(number), int(of)),
            "specs": specs,
            "scorers": scorers,
            "states": states,
            "model": model,
            "data": from_json(DataInfo, content["data"], str(path)),
            "layers": layers,
            "n_samples": int(content["n_samples"]),
            "seconds": float(content["seconds"]),
            "batch_size": int(content["batch_size"]),
            "versions": dict(content["versions"]),
            "tokens": int(content["tokens"]),
        }
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror or error})", "check the path") from error
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no shard", "give files that `score --shard i/n` wrote") from error


def _scorer(spec: Spec) -> Scorer:
    own = {key: value for key, value in spec.params.items() if key not in ("pooling", "last_state", "standardised")}
    made = catalog.build("scorer", Spec(spec.name, own))
    if not isinstance(made, StackScorer | StreamScorer | GradientScorer):
        raise TypeError(f"{spec.name} gathers nothing")
    return made


def _kinds(scorer: Scorer) -> dict[str, type]:
    kinds = (Finished,) if isinstance(scorer, StackScorer) else scorer.kinds
    return {kind.__name__: kind for kind in kinds}


def _pack(thing: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a state; its tensors go to `tensors` and leave their number behind."""
    if isinstance(thing, np.ndarray):
        return {"array": _pack(torch.from_numpy(thing), tensors)["tensor"]}
    if isinstance(thing, Tensor):
        tensors[str(len(tensors))] = thing.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = {part.name: _pack(getattr(thing, part.name), tensors) for part in dataclasses.fields(thing)}
        return {"kind": type(thing).__name__, "parts": parts}
    if isinstance(thing, tuple | list):
        return {"items": [_pack(item, tensors) for item in thing]}
    if isinstance(thing, dict):
        return {"pairs": [[key, _pack(value, tensors)] for key, value in thing.items()]}
    if thing is None or isinstance(thing, bool | int | float | str):
        return {"value": thing}
    raise TypeError(f"a scorer's state holds a {type(thing).__name__}, which cannot be written")


def _unpack(packed: dict[str, Any], tensors: dict[str, Tensor], kinds: dict[str, type]) -> Any:
    """The state that `_pack` wrote."""
    (how, value), *rest = packed.items()
    if how == "array":
        return tensors[value].numpy()
    if how == "tensor":
        return tensors[value]
    if how == "kind":
        parts = {name: _unpack(part, tensors, kinds) for name, part in rest[0][1].items()}
        return kinds[value](**parts)
    if how == "items":
        return tuple(_unpack(item, tensors, kinds) for item in value)
    if how == "pairs":
        return {key: _unpack(item, tensors, kinds) for key, item in value}
    return value
