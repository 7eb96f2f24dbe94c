"""What a pass over one shard of the data has gathered, written to a file and read back.

A shard is one safetensors file: the tensors of the scorers' states, and in its metadata, as JSON, everything else. Only
the dataclasses that a scorer names in `kinds` are ever made from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.records.base import Spec, from_json, to_json
from wheretune.records.data import DataInfo
from wheretune.records.model import ModelInfo
from wheretune.records.scores import Reading
from wheretune.scorers.base import Finished, GradientScorer, StackScorer, StreamScorer
from wheretune.scoring.gathered import PassState, finish, merge
from wheretune.support.files import write

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScores
    from wheretune.scorers.base import Scorer

FORMAT = 3
KEY = "wheretune.shard"
KEPT = "wheretune.finished shard"

UNREADABLE = (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


def save_shard(state: PassState, path: Path) -> None:
    """Writes what a pass over one shard has gathered.

    Raises:
        OutputError: The place cannot be written to.
    """
    write_packed(path, KEY, *packed(state))


def load_shard(path: Path) -> PassState:
    """Reads what `save_shard` wrote.

    Raises:
        ConfigError: There is no such file, it is no shard, or another version of wheretune wrote it.
    """
    content, tensors = read_packed(path, KEY)
    try:
        return unpacked(content, tensors, str(path))
    except UNREADABLE as error:
        raise ConfigError(f"{path} is no shard", "give files that a pass over one shard wrote") from error


def keep_shard(state: PassState, path: Path, asked: str) -> None:
    """Writes what a pass over one shard has gathered, and what pass was asked for, for `kept_shard`.

    Raises:
        OutputError: The place cannot be written to.
    """
    content, tensors = packed(state)
    write_packed(path, KEPT, {**content, "asked": asked}, tensors)


def kept_shard(path: Path, asked: str) -> PassState | None:
    """What `keep_shard` wrote for the very pass; None where there is nothing of it."""
    try:
        content, tensors = read_packed(path, KEPT)
        return unpacked(content, tensors, str(path)) if content["asked"] == asked else None
    except (ConfigError, *UNREADABLE):
        return None


def write_packed(path: Path, key: str, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Writes what `packed` made, under the key that says what it is of.

    Raises:
        OutputError: The place cannot be written to.
    """
    write(path, lambda draft: save_file(tensors, draft, {key: json.dumps(content)}))


def read_packed(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_packed` wrote.

    Raises:
        ConfigError: There is no such file, it is of something else, or another version of wheretune wrote it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        if content["format"] != FORMAT:
            raise ConfigError(f"{path} was written by another version of wheretune", "score that shard again")
        return content, tensors
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror or error})", "check the path") from error
    except UNREADABLE as error:
        what = key.partition(".")[2]
        raise ConfigError(f"{path} is no {what}", f"give what wheretune wrote as {what}") from error


def packed(state: PassState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a pass has gathered, as JSON and tensors in the CPU's memory."""
    tensors: dict[str, Tensor] = {}
    states = [pack(own, tensors) for own in state.states.values()]
    content = {
        "format": FORMAT,
        "shard": state.shard,
        "scorers": [to_json(Spec.of(scorer)) for scorer in state.states],
        "model": to_json(state.info),
        "data": to_json(state.data),
        "reading": to_json(state.reading),
        "n_samples": state.n_samples,
        "tokens": state.tokens,
        "learned": state.learned,
        "seconds": state.seconds,
        "versions": state.versions,
        "states": states,
    }
    return content, tensors


def unpacked(
    content: dict[str, Any], tensors: dict[str, Tensor], source: str, scorers: Sequence[Scorer] | None = None
) -> PassState:
    """What `packed` has packed, by these scorers or those that are named; raises whatever may go wrong."""
    number, of = content["shard"]
    if scorers is None:
        scorers = [_scorer(from_json(Spec, spec, source)) for spec in content["scorers"]]
        if not scorers:
            raise ValueError("nothing was scored")
    if not 1 <= int(number) <= int(of) or int(content["n_samples"]) < 0:
        raise ValueError("the shard does not fit")
    return PassState(
        states={
            scorer: unpack(own, tensors, _kinds(scorer)) for scorer, own in zip(scorers, content["states"], strict=True)
        },
        info=from_json(ModelInfo, content["model"], source),
        data=from_json(DataInfo, content["data"], source),
        reading=from_json(Reading, content["reading"], source),
        n_samples=int(content["n_samples"]),
        tokens=int(content["tokens"]),
        learned=int(content.get("learned", 0)),
        seconds=float(content["seconds"]),
        versions=dict(content["versions"]),
        shard=(int(number), int(of)),
    )


def merge_scores(paths: Sequence[Path]) -> list[LayerScores]:
    """The scores of all shards together: what one pass over the whole data gives.

    Raises:
        ConfigError: A file is no shard, belongs to another pass, is there twice, or one is missing.
        ScoreError: A score is not finite, or there were too few samples.
    """
    state = merge([load_shard(path) for path in paths])
    try:
        return finish(state)
    except ValueError as error:  # the states are of other layers than the model
        names = ", ".join(map(str, paths))
        raise ConfigError(f"{names} contradict themselves ({error})", "score these shards again") from error


# --- a scorer's state as JSON and tensors ---------------------------------------------------------


def _scorer(spec: Spec) -> Scorer:
    made = catalog.build("scorer", spec)
    if not isinstance(made, StackScorer | StreamScorer | GradientScorer):
        raise TypeError(f"{spec.name} gathers nothing")
    return made


def _kinds(scorer: Scorer) -> dict[str, type]:
    kinds = (Finished,) if isinstance(scorer, StackScorer) else scorer.kinds
    return {kind.__name__: kind for kind in kinds}


def pack(thing: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """JSON for a state; its tensors go to `tensors` and leave their number behind."""
    if isinstance(thing, np.ndarray):
        return {"array": pack(torch.from_numpy(thing), tensors)["tensor"]}
    if isinstance(thing, Tensor):
        tensors[str(len(tensors))] = thing.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = {part.name: pack(getattr(thing, part.name), tensors) for part in dataclasses.fields(thing)}
        return {"kind": type(thing).__name__, "parts": parts}
    if isinstance(thing, tuple | list):
        return {"items": [pack(item, tensors) for item in thing]}
    if isinstance(thing, dict):
        return {"pairs": [[key, pack(value, tensors)] for key, value in thing.items()]}
    if thing is None or isinstance(thing, bool | int | float | str):
        return {"value": thing}
    raise TypeError(f"a scorer's state holds a {type(thing).__name__}, which cannot be written")


def unpack(packed: dict[str, Any], tensors: dict[str, Tensor], kinds: dict[str, type]) -> Any:
    """The state that `pack` wrote."""
    (what, value), *rest = packed.items()
    if what == "array":
        return tensors[value].numpy()
    if what == "tensor":
        return tensors[value]
    if what == "kind":
        parts = {name: unpack(part, tensors, kinds) for name, part in rest[0][1].items()}
        return kinds[value](**parts)
    if what == "items":
        return tuple(unpack(item, tensors, kinds) for item in value)
    if what == "pairs":
        return {key: unpack(item, tensors, kinds) for key, item in value}
    return value
