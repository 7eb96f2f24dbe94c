"""Where the weights of a model lie that is larger than one device, or than memory."""

from __future__ import annotations

import re

from wheretune.errors import ConfigError
from wheretune.records.base import read_json, record
from wheretune.support.words import in_bytes

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
PLACE = re.compile(r"cpu|disk|mps|(cuda:)?\d+")


@record
class Placement:
    """Where the weights lie of a model that is larger than one device, or than memory. Such a model does not train.

    Attributes:
        device_map: One of Transformers' ways to fill the devices, then memory, then disk; or a JSON file that says of
            every part of the model where it lies (`{"layers.0": "cuda:0", "layers.1": "disk"}`).
        memory_limit: How much may be taken: of every device alike (`1GB`), or device by device (`0=20GB,cpu=30GB`, and
            nothing of others); None takes what is free. Of a GPU it is what the weights take, of the CPU what the whole
            process takes.
        offload_folder: Where weights are written that lie on disk and cannot be read from the checkpoint as it is.
    """

    device_map: str = "auto"
    memory_limit: str | None = None
    offload_folder: str | None = None

    def __post_init__(self) -> None:
        self.limits()
        if self.device_map in DEVICE_MAPS:
            return
        if not self.device_map.endswith(".json"):
            known = ", ".join(DEVICE_MAPS)
            raise ConfigError(f"there is no device map {self.device_map!r}", f"give {known} or a .json", "device_map")
        if self.memory_limit is not None:
            raise ConfigError(f"{self.device_map} says what lies where", "leave the limit out", "memory_limit")

    def limits(self) -> dict[str, int] | None:
        """The bytes by device (a number, or `cpu`); under an empty name those of every device.

        Raises:
            ConfigError: It says something else.
        """
        if self.memory_limit is None:
            return None
        found = {}
        for part in self.memory_limit.split(","):
            device, _, amount = part.rpartition("=")
            device = device.strip().removeprefix("cuda:")
            try:
                found[device] = in_bytes(amount)
            except ValueError:
                device = "?"
            if not (device in ("", "cpu", "mps") or device.isdecimal()) or (device == "" and "," in self.memory_limit):
                raise ConfigError(
                    f"the memory limit is {self.memory_limit!r}", "give 1GB, or 0=20GB,cpu=30GB", "memory_limit"
                )
        return found

    def places(self) -> dict[str, str] | None:
        """What the file says, by the path of the part; None where there is none.

        Raises:
            ConfigError: It cannot be read, or says something else.
        """
        if self.device_map in DEVICE_MAPS:
            return None
        read = read_json(self.device_map)
        found = {name: str(place) for name, place in read.items()} if isinstance(read, dict) else {}
        wrong = [place for place in found.values() if PLACE.fullmatch(place) is None]
        if wrong or not found:
            raise ConfigError(
                f"{self.device_map} gives {wrong[0]!r} as a place" if wrong else f"{self.device_map} names no part",
                "name parts of the model, each with cpu, disk, mps or the number of a CUDA device",
                "device_map",
            )
        return {name: place.removeprefix("cuda:") for name, place in found.items()}
