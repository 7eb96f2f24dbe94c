"""Apply a plan to a model, prove afterwards that it was carried out, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from wheretune import catalog, scheduling
from wheretune.errors import ConfigError, EngagementError, MergeError, OutputError, PlanError
from wheretune.model.compiling import Compiled
from wheretune.model.dispatch import check_held
from wheretune.model.finding import find_layers
from wheretune.model.forward import is_compiled
from wheretune.model.freezing import exclude_frozen, lowest_trained
from wheretune.model.identity import check_plan, describe, tensor_hashes
from wheretune.model.placement import hold_masters
from wheretune.model.recomputing import checkpoint_activations
from wheretune.model.sharding import shard
from wheretune.model.unread import read_on_top
from wheretune.records.base import looks
from wheretune.records.data import check_seed
from wheretune.schedules.base import OrdersRows, WorkingCopy
from wheretune.schedules.follower import ScheduleFollower
from wheretune.support.files import PARTIAL
from wheretune.support.processes import part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.steps import Follower
    from wheretune.records.plan import Plan
    from wheretune.schedules.base import Schedule, Scheduled
    from wheretune.tuners.base import Tuner


class Tuned:
    """A model to which a plan has been applied; `apply` makes it.

    Attributes:
        model: The user's model, with what the tuner put into the plan's layers.
        stack: Its layers.
        plan: The plan.
        attached: What the tuner did.
        trainable: The parameters that may train, by name.
        followers: What must happen at every step of the training; empty for most plans.
        shards: In words, for the result of a run, that the model is in shards, if it is.
        compiled: Likewise, says which layers were compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        tuner: Tuner,
        schedule: Schedule,
        seed: int = 0,
        frozen_dropout: bool = False,
        before: Mapping[str, str] | None = None,
        masters: bool = False,
    ) -> None:
        if isinstance(model, DistributedDataParallel):
            raise PlanError(
                "DDP has noted already what trains", "apply the plan first, and let DDP wrap the model then"
            )
        if is_compiled(model):
            torch.compiler.reset()  # what ran before was compiled without the hooks that come now
        self.model = model
        self.plan = plan
        self.stack = find_layers(model, plan.model.spec.layers_attribute)
        if before is None:
            check_plan(describe(self.stack), plan)
        if not plan.layers and tuner.needs_layers:
            raise PlanError("the plan names no layer", "choose layers, or take the tuner head-only")
        self._frozen_dropout = frozen_dropout
        self._applied, self._temporary = True, False
        self.shards: dict[str, str] = {}
        self._end_recomputing: Callable[[], None] = lambda: None
        self._end_compiling: Callable[[], None] = lambda: None
        self.compiled: Callable[[], dict[str, str]] = dict
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        on_top = read_on_top(self.stack)
        top = {id(parameter) for parameter in on_top}
        own = model.state_dict()  # held while the tuner is attached, so that nothing new takes their memory
        self.attached = tuner.attach(self.stack, plan.layers, seed)
        self._check_attached(tuner, schedule)
        self._let_masters_go = (
            hold_masters(self.stack, [*self.attached.parameters, *on_top]) if masters else lambda: None
        )
        self._hashes = _hashes(model, own, before)
        ids = top | {id(parameter) for parameter in self.attached.parameters}
        self._on_top = [name for name, parameter in model.named_parameters() if id(parameter) in top]
        self.trainable: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad = id(parameter) in ids
            if parameter.requires_grad:
                self.trainable[name] = parameter
        self._keep_frozen_out()
        self.followers: tuple[Follower, ...] = self.attached.followers
        self._scheduled = self._following(schedule, seed)
        if self._scheduled is not None:
            self.followers = (self._scheduled, *self.followers)

    def _following(self, schedule: Schedule, seed: int) -> Scheduled | None:
        """What carries a schedule out; None where nothing moves."""
        if isinstance(schedule, WorkingCopy):
            return schedule.follow(self.stack, self.plan.layers, self.trainable, seed)
        if not schedule.moves:
            return None
        return ScheduleFollower(schedule, self.stack, self.plan.layers, self.trainable, seed, self._keep_frozen_out)

    def _check_attached(self, tuner: Tuner, schedule: Schedule) -> None:
        """Takes the tuner off again if what it attached cannot train, or not by this schedule."""
        wrong: PlanError | None = None
        if not all(parameter.is_floating_point() for parameter in self.attached.parameters):
            wrong = PlanError(
                f"the tuner {tuner.name} would train weights that are quantised",
                "take lora or another that adds parameters of its own",
            )
        elif self.attached.followers and schedule.moves:
            wrong = PlanError(
                f"the tuner {tuner.name} needs its layers at every step, and the schedule {schedule.name} freezes some",
                "take another tuner, or the schedule static",
            )
        if wrong is not None:
            self.attached.detach()
            raise wrong

    def _keep_frozen_out(self) -> None:
        """Fits the hooks to what is frozen now."""
        self._let_go = exclude_frozen(self.stack, self._frozen_dropout)

    @property
    def trainable_parameters(self) -> int:
        """How many parameters may train, the head's included."""
        return sum(parameter.numel() for parameter in self.trainable.values())

    def _repr_html_(self) -> str:
        tensors, total = len(self.trainable), self.trainable_parameters
        return str(looks("html", self.plan, f"applied: {total:,} parameters in {tensors} tensors may train"))

    def __repr__(self) -> str:
        return f"Tuned({self.plan}, trainable_parameters={self.trainable_parameters})"

    def recompute(self) -> None:
        """Trades time for memory: the layers that see a gradient run again in the backward pass.

        Transformers' own switch also makes the embeddings' output require a gradient, and then a frozen prefix is
        recomputed and differentiated after all; here it stays out.

        Raises:
            ModelError: The family cannot do this.
        """
        self._end_recomputing = checkpoint_activations(self.stack, min(self.plan.layers, default=len(self.stack)))

    def compile(self, backend: str = "inductor", whole: bool = True) -> None:
        """Compiles the layers that see a gradient (`torch.compile`), once for texts of all lengths.

        No module is replaced, and without gradients the model runs as written. Call it right before the training.

        Args:
            backend: As `torch.compile` knows it.
            whole: The last layer runs whole; else, where only what is read of it is computed, it is left out.

        Raises:
            ConfigError: The schedule freezes parts of layers.
        """
        scheduling.check_compilable(self.plan.schedule)
        self._end_compiling()
        above = self.stack.layers[lowest_trained(self.stack) : len(self.stack) - (not whole)]
        made = Compiled({self.plan.model.called(layer.index): layer.module for layer in above}, backend, whole)
        self._end_compiling, self.compiled = made.end, made.description
        self._keep_frozen_out()  # anew, around what is compiled

    def shard(self, device: torch.device) -> None:
        """Cuts the model into shards, one per process, for good; see `model.sharding`.

        Raises:
            ModelError: A parameter cannot be cut.
            PlanError: The plan holds `temporarily`.
        """
        if self._temporary:
            raise PlanError("the model gets its weights back when this training is over", "open it for this one alone")
        names = set(self.trainable)
        self.trainable, self._flags = {}, []  # else the whole tensors would be held beside their shards
        if self.attached.save is None:
            self.attached = replace(self.attached, parameters=[])
        shard(self.stack, device)
        self.trainable = {name: one for name, one in self.model.named_parameters() if name in names}
        self.shards = {
            "model": f"in shards, one in each of {part()[1]} processes",
            "prefix cache": "none: the model is in shards",
        }

    def check(self) -> None:
        """Proves by hashes that every chosen layer changed and nothing that is frozen did.

        Under a schedule that moves, a chosen layer must have changed if it was active in at least one step, and what
        was never active must be as it was.

        Raises:
            EngagementError: It was not so; the tensors are named.
        """
        trained = self._trained()
        state = self.model.state_dict(keep_vars=True)
        now = tensor_hashes(state.items(), as_fp32=True)
        changed = {name for name in state if now[name] != self._hashes.get(name)}
        places = {id(parameter) for parameter in trained.values()}
        strays = sorted(name for name in changed if id(state[name]) not in places)
        if strays:
            raise EngagementError(
                f"training changed {len(strays)} tensors that the plan freezes, {strays[0]} among them",
                "look for code that unfreezes or replaces parameters",
            )
        unmoved = self._unmoved(trained, changed)
        if unmoved:
            raise EngagementError(
                f"training did not change {', '.join(unmoved)}",
                "check the learning rate, the number of steps, and that the optimizer was made after apply",
            )

    def _trained(self) -> dict[str, nn.Parameter]:
        """What has trained in at least one step, by name."""
        if self._scheduled is None:
            return self.trainable
        if not self._scheduled.ever:
            raise EngagementError(
                f"the schedule {self.plan.schedule} was never carried out",
                "give the Trainer callbacks=[wheretune.FollowerCallback(tuned.followers)]",
            )
        return self._scheduled.trained()

    @property
    def waiting(self) -> dict[str, nn.Parameter]:
        """The parameters that should train in a step now, by name: without those that a schedule has frozen."""
        moving = self._scheduled is not None
        return {name: p for name, p in self.trainable.items() if p.requires_grad or not moving}

    def untouched(self, names: Set[str]) -> list[str]:
        """The parts (`layer 3`, `the head`) that should train in a step now and of which no parameter is named."""
        return self._unmoved(self.waiting, names)

    def _unmoved(self, trained: Mapping[str, nn.Parameter], changed: Set[str]) -> list[str]:
        """The parts that trained and of which no tensor changed."""
        prefix = f"{self.stack.base_path}." if self.stack.base_path else ""
        called = self.plan.model.called
        paths = {f"layer {called(i)}": f"{prefix}{self.stack.layers[i].path}." for i in self.plan.layers}

        def inside(path: str, names: Iterable[str]) -> bool:
            return any(name.startswith(path) for name in names)

        unmoved = [part for part, path in paths.items() if inside(path, trained) and not inside(path, changed)]
        head = [name for name in self._on_top if name in trained]  # a schedule of single tensors may freeze all of it
        return [*unmoved, *(["the head"] if head and not any(name in changed for name in head) else [])]

    def undo(self) -> None:
        """Takes off what the tuner put in, and gives every parameter back the `requires_grad` it had.

        What was trained of the model's own weights (whole layers, biases, the head) stays trained.
        """
        if self._applied:
            self.attached.detach()
            self._give_back()

    def merge(self) -> None:
        """Writes what was trained into the model's own weights and leaves a model without additions.

        Raises:
            MergeError: No weights of the model can do what the tuner's modules do, or the plan holds `temporarily`.
        """
        if self._temporary:
            raise MergeError("the model gets its weights back when this training is over", "merge a saved delta")
        self.attached.merge()
        self._give_back()

    def _give_back(self) -> None:
        self._applied = False
        self._let_go()
        self._end_compiling()
        self._end_recomputing()
        self._let_masters_go()
        for parameter, flag in self._flags:
            parameter.requires_grad = flag

    @contextmanager
    def temporarily(self, folder: Path | None = None) -> Iterator[Tuned]:
        """The plan holds inside; then the model is what it was before `apply`, every weight bit for bit.

        So that many trainings can begin from one model that was opened once. The model's own weights that may train are
        kept in a mapped file meanwhile, which takes no memory and leaves no name behind if the process is killed. What
        is worth keeping of the training (predictions, `save_delta`) is to be had inside.

        Args:
            folder: Where the file lies; a temporary folder of the system's by default.

        Raises:
            OutputError: The disk has no room.
        """
        own = {id(parameter) for parameter, _ in self._flags}
        lent = [parameter for parameter in self.trainable.values() if id(parameter) in own]
        modes = [(module, module.training) for module in self.model.modules()]
        kept = _mapped(lent, folder)
        self._temporary = True
        try:
            yield self
        finally:
            self._temporary = False
            self.undo()
            for parameter, values in zip(lent, kept, strict=True):
                parameter.data.copy_(values)
                parameter.grad = None
            for module, training in modes:
                module.training = training


def _hashes(model: nn.Module, own: Mapping[str, Tensor], before: Mapping[str, str] | None) -> dict[str, str]:
    """The hashes of a model's tensors as fp32; those that were its own keep what they had under their name before."""

    def memory(tensor: Tensor) -> tuple[object, ...]:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    known = {memory(own[name]): one for name, one in (before or {}).items() if name in own}
    state = model.state_dict()
    found = {name: known[memory(value)] for name, value in state.items() if memory(value) in known}
    rest = ((name, value) for name, value in state.items() if name not in found)
    return found | tensor_hashes(rest, as_fp32=True)


def _mapped(tensors: Sequence[Tensor], folder: Path | None) -> list[Tensor]:
    """Copies of some tensors in a mapped file, whose name is gone at once."""
    try:
        with TemporaryDirectory(prefix=f".weights{PARTIAL}", dir=folder, ignore_cleanup_errors=True) as scratch:
            file = Path(scratch) / "weights.safetensors"
            save_file({str(number): value.detach().cpu().contiguous() for number, value in enumerate(tensors)}, file)
            kept = load_file(file)  # a mapping outlives its file's name
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the weights cannot be kept on disk while others train ({error})", "free some room"
        ) from error
    return [kept[str(number)] for number in range(len(tensors))]


def apply(
    model: nn.Module,
    plan: Plan,
    seed: int = 0,
    *,
    frozen_dropout: bool = False,
    before: Mapping[str, str] | None = None,
    masters: bool = False,
) -> Tuned:
    """Makes a model train as `plan` says: its layers and what sits on top, and nothing else.

    Whole layers need `requires_grad` alone; other tuners put modules of theirs into the plan's layers. `Tuned.undo`
    takes all of it back. Make the optimizer (or the Trainer) after; a plan with a schedule that moves, or with AdaLoRA,
    needs `FollowerCallback(tuned.followers)` in it as well.

    What is frozen stays in eval mode in an unmodified `Trainer`, and no gradient runs below the lowest trained layer,
    also with activation checkpointing.

    Args:
        model: Any Hugging Face transformer, with or without a head of its own.
        plan: Made for this model.
        seed: Seed for what the tuner and the schedule draw at random.
        frozen_dropout: Frozen layers drop out as trained ones do (stock behaviour).
        before: The hashes of the model's tensors as fp32, by their names in it, if somebody has hashed them already and
            made sure that the plan is this model's (`model.identity.fingerprints`). They are not hashed again; tensors
            without a hash are.
        masters: Hold in fp32 what trains of a half-precision model, until `undo`; see `model.placement.hold_masters`.

    Raises:
        ConfigError: The seed is out of range, or the schedule looks at the texts while it trains.
        PlanError: The plan was made for another model, or names no layer.
        ModelError: The tuner does not find in the layers what it attaches to.
    """
    check_seed(seed)
    check_held(model, "training")
    tuner, schedule = catalog.build("tuner", plan.tuner), catalog.build("schedule", plan.schedule)
    if isinstance(schedule, OrdersRows) and schedule.rescan and not schedule.ends:
        raise ConfigError(
            f"the schedule {plan.schedule.name} would look at the texts again at each stage, and a Trainer of your own "
            "orders its rows itself",
            "leave rescan out, or train with `wheretune tune`",
            "rescan",
        )
    return Tuned(model, plan, tuner, schedule, seed, frozen_dropout, before, masters)
