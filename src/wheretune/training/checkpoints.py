"""The checkpoints of a run: what may train, by name, and all else that it takes to go on as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from wheretune.errors import TrainingError
from wheretune.model.sharding import as_held, write_tensors
from wheretune.support.files import PARTIAL, sweep, write
from wheretune.support.processes import writes

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import TrainerState

CHECKPOINT, TENSORS, REST, TRAINER = "checkpoint", "state.safetensors", "state.json", "trainer_state.json"
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training between two steps.

    Attributes:
        parameters: Everything that the optimizer holds, by name, whether or not it is frozen at this moment.
        optimizer: The optimizer's tensors and numbers, by parameter and slot. Parameters without any do not appear.
        groups: The settings of the optimizer's groups (learning rate, decay ...), without their parameters.
        followers: What the followers must remember, by follower.
        generators: The states of torch's random generators.
        rest: What is plain: the learning rate's scheduler, the other generators, the seconds so far.
    """

    parameters: dict[str, Tensor]
    optimizer: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]]
    followers: dict[str, dict[str, Tensor]]
    generators: dict[str, Tensor]
    rest: dict[str, Any]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first; each is whole."""
    return sorted(folder.glob(f"{CHECKPOINT}-*"), key=lambda path: int(path.name.split("-")[-1]))


def save_checkpoint(checkpoint: Checkpoint, folder: Path, state: TrainerState, kept: int = 1) -> None:
    """Writes a checkpoint of a run, whole or not at all, and then removes all but the last `kept`.

    All processes of the run must do so; the first one writes.
    """
    tensors = {f"parameters/{name}": value for name, value in checkpoint.parameters.items()}
    slots = [(f"{name}/{slot}", value) for name, of in checkpoint.optimizer.items() for slot, value in of.items()]
    tensors |= {f"optimizer/{key}": value for key, value in slots if isinstance(value, torch.Tensor)}
    plain = {key: value for key, value in slots if not isinstance(value, torch.Tensor)}
    tensors |= {
        f"followers/{name}/{key}": value for name, kept in checkpoint.followers.items() for key, value in kept.items()
    }
    tensors |= {f"generators/{name}": value for name, value in checkpoint.generators.items()}

    def fill(draft: Path) -> None:
        draft.mkdir()
        write_tensors(tensors, draft / TENSORS)
        content = {"format": FORMAT, "groups": checkpoint.groups, "slots": plain, "rest": checkpoint.rest}
        (draft / REST).write_text(json.dumps(content), encoding="utf-8")
        state.save_to_json(str(draft / TRAINER))

    if not writes():
        write_tensors(tensors, None)
        return
    write(folder / f"{CHECKPOINT}-{state.global_step}", fill)
    for older in checkpoints(folder)[:-kept]:
        shutil.move(older, folder / f".{older.name}{PARTIAL}")  # first out of sight, so that no half of it is resumed
    sweep(folder)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote; the tensors lie in the mapped file.

    Raises:
        TrainingError: Another version wrote it.
    """
    plain = json.loads((Path(path) / REST).read_text(encoding="utf-8"))
    if plain.get("format") != FORMAT:
        raise TrainingError(f"another version of wheretune wrote {path}", "start the run over, or use that version")
    checkpoint = Checkpoint({}, {}, plain["groups"], {}, {}, plain["rest"])
    for key, value in load_file(Path(path) / TENSORS).items():
        kind, _, name = key.partition("/")
        if kind == "parameters":
            checkpoint.parameters[name] = value
        elif kind == "generators":
            checkpoint.generators[name] = value
        elif kind == "optimizer":
            parameter, _, slot = name.rpartition("/")
            checkpoint.optimizer.setdefault(parameter, {})[slot] = value
        else:
            follower, _, rest = name.partition("/")
            checkpoint.followers.setdefault(follower, {})[rest] = value
    for name, value in plain.get("slots", {}).items():
        parameter, _, slot = name.rpartition("/")
        checkpoint.optimizer.setdefault(parameter, {})[slot] = value
    return checkpoint


def held_by(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The parameters that an optimizer holds, by name and in its own order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: parameter for group in optimizer.param_groups for parameter in group["params"]}


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """An optimizer's tensors and numbers by parameter and slot, and the settings of its groups."""
    held, state = list(held_by(optimizer, model)), optimizer.state_dict()
    settings = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return {held[number]: slots for number, slots in state["state"].items()}, settings


def restore_optimizer(optimizer: Optimizer, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Gives an optimizer the state that it had.

    Raises:
        TrainingError: It holds other parameters than it did.
    """
    held = held_by(optimizer, model)
    number = {name: place for place, name in enumerate(held)}
    if number.keys() != checkpoint.parameters.keys():
        odd = sorted(number.keys() ^ checkpoint.parameters.keys())[0]
        raise TrainingError(f"the checkpoint and the model disagree on whether {odd} trains", "start the run over")
    now = optimizer.state_dict()["param_groups"]
    plain = [{k: tuple(v) if isinstance(v, list) else v for k, v in group.items()} for group in checkpoint.groups]
    groups = [{**saved, "params": group["params"]} for saved, group in zip(plain, now, strict=True)]
    state = {
        number[name]: {
            slot: as_held(value, held[name]) if isinstance(value, torch.Tensor) else value
            for slot, value in slots.items()
        }
        for name, slots in checkpoint.optimizer.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def restore_parameters(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Gives a model the weights that it had.

    Raises:
        TrainingError: It has no such parameters.
    """
    own = dict(model.named_parameters())
    lacking = sorted(checkpoint.parameters.keys() - own.keys())
    if lacking:
        raise TrainingError(f"the model has no {lacking[0]}, which the checkpoint holds", "start the run over")
    for name, value in checkpoint.parameters.items():
        own[name].data.copy_(as_held(value, own[name]))


def generators() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of all random generators: torch's, and Python's and NumPy's as plain data."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    version, internal, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    plain = {"python": [version, list(internal), gauss], "numpy": [kind, np.asarray(keys).tolist(), *rest]}
    return states, plain


def restore_generators(states: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Gives all random generators the states that `generators` found."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = plain["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
