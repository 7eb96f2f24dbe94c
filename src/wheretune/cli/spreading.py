"""The options that say what many jobs run on: the runs of a comparison, the shards of a scoring pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from wheretune.cli.groups import Group, group, option
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.base import Spec


@group
class SpreadOptions(Group):
    """What the jobs run on, and what each of them is given."""

    panel: ClassVar[str] = "Spreading"
    per_job: ClassVar[tuple[str, ...]] = ("gpus_per_run", "cpus_per_run", "runs_at_once")
    on: Annotated[
        str,
        option("--on", "What the jobs run on: serial is one after another in this process; ray starts a Ray on this "
               "machine, and ray:HOST:PORT (on the cluster itself ray:auto) takes a cluster.", axis="executor"),
    ] = "serial"  # fmt: skip
    gpus_per_run: Annotated[
        float | None,
        option("--gpus-per-run", "With --on ray: GPUs for each run or shard; 0.5 shares one between two.",
               default="1 where there are any"),
    ] = None  # fmt: skip
    cpus_per_run: Annotated[
        float | None,
        option("--cpus-per-run", "With --on ray: cores, and so threads, for each run or shard.", default="1"),
    ] = None
    runs_at_once: Annotated[
        int | None,
        option("--runs-at-once", "With --on ray: the most runs or shards at once.", default="as many as have room"),
    ] = None

    def executor(self) -> Spec:
        """What runs the jobs, with all its options.

        Raises:
            ConfigError: It is unknown, or does not take an option that was given.
            UnavailableError: It is not installed.
        """
        from wheretune import catalog
        from wheretune.records.base import Spec

        spec = catalog.written("executor", self.on)
        given = {name: value for name in self.per_job if (value := getattr(self, name)) is not None}
        taken = catalog.filled("executor", spec, **given).params
        for name in given:
            if name not in taken:
                raise ConfigError(f"{name} has no effect with --on {spec.name}", "add --on ray", name)
        return Spec.of(catalog.build("executor", Spec(spec.name, spec.params | given)))
