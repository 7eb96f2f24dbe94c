"""The options that say where the weights of a model lie that is larger than one device, or than memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from wheretune.cli.groups import Group, group, option
from wheretune.cli.options import absolute
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.model import ModelSpec


@group
class PlacementOptions(Group):
    """Where the weights lie, if not all on one device."""

    panel: ClassVar[str] = "Model"
    device_map: Annotated[
        str | None,
        option(
            "--device-map",
            "Spread a model that one device does not hold over GPUs, memory and disk: auto, balanced, "
            "balanced_low_0 or sequential as in Transformers, or a JSON file with the place of every part.",
            default="none, or auto with --memory-limit",
            metavar="MAP",
        ),
    ] = None
    memory_limit: Annotated[
        str | None,
        option(
            "--memory-limit",
            "How much memory may be taken, such as 1GB or 0=20GB,cpu=30GB (of the CPU's by the whole process); "
            "weights beyond it stay on disk and are read again for every batch.",
            default="what is free",
            metavar="SIZE",
        ),
    ] = None
    offload_folder: Annotated[
        Path | None,
        option(
            "--offload-folder",
            "Where weights are written that stay on disk and cannot be read from the checkpoint as it is.",
            default="none",
            metavar="DIR",
        ),
    ] = None

    def over(self, spec: ModelSpec, needs: Iterable[str]) -> ModelSpec:
        """The model, with its weights where they were asked to lie.

        Raises:
            ConfigError: The options do not go together.
            ModelError: What is needed of the model cannot be had so.
        """
        from wheretune.records.model import check_forward_only, check_machine
        from wheretune.records.placement import Placement

        if self.device_map is None and self.memory_limit is None:
            if self.offload_folder is not None:
                raise ConfigError("--offload-folder has no effect", "add --device-map or --memory-limit")
            return spec
        folder = None if self.offload_folder is None else str(self.offload_folder.absolute())
        named = self.device_map or "auto"
        placement = Placement(absolute(named) if named.endswith(".json") else named, self.memory_limit, folder)
        spec = replace(spec, placement=placement)
        check_machine(spec)
        check_forward_only(spec, needs)
        return spec
