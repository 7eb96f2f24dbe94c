"""Carries out RECAP: in every round a working copy of the layers is made, trains and is written back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from wheretune.errors import EngagementError, TrainingError
from wheretune.model.forward import evaluating
from wheretune.model.inputs import model_device
from wheretune.schedules.draws import key
from wheretune.schedules.follower import check_label, label
from wheretune.schedules.narrower import REFUSALS, linear_map, refusal
from wheretune.schedules.pruning import MOST, groups_of, least, share_of
from wheretune.schedules.witness import LEAST_RATE
from wheretune.schedules.working_copy import CutMap
from wheretune.support.log import log
from wheretune.support.processes import part as own_part
from wheretune.support.processes import world_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.steps import Training
    from wheretune.schedules.base import State
    from wheretune.schedules.pruning import Group
    from wheretune.schedules.recap import Recap

FINE, COARSE = 1e-3, 2**-4  # how far the loss of the small copy may be from that of the zeroed model; in half precision


class RoundsFollower:
    """Carries out RECAP, see there.

    While a round trains, parameters hold what trains of them. Before the model is saved or judged, and at the end,
    they are whole again: `Pauses`.

    Args:
        schedule: RECAP's settings.
        stack: The model's layers.
        chosen: The plan's.
        parameters: All that may ever train, by name; each requires a gradient when the optimizer is made.
        seed: Seed for which texts are looked at.

    Raises:
        ModelError: A layer is made of other maps.

    Attributes:
        name: `schedule`, as that of every schedule.
        ever: The layers that have trained so far in steps that move weights.
    """

    name = "schedule"

    def __init__(
        self,
        schedule: Recap,
        stack: LayerStack,
        chosen: Sequence[int],
        parameters: Mapping[str, nn.Parameter],
        seed: int,
    ) -> None:
        self.ever: frozenset[int] = frozenset()
        self._schedule, self._stack, self._chosen, self._seed = schedule, stack, tuple(chosen), seed
        self._parameters = parameters
        self._groups = [group for layer in chosen for group in groups_of(layer, stack.layers[layer].parts)]
        for group in self._groups:
            for path, *_ in group.maps():
                linear_map(stack, group, path)
        self._maps: dict[tuple[int, str], CutMap] = {}
        self._round: int | None = None
        self._cut = False
        self._seen: tuple[CutMap, Tensor, Tensor] | None = None

    def trained(self) -> dict[str, nn.Parameter]:
        """What has trained, in part at least, by name."""
        return dict(self._parameters) if self.ever else {}

    def begin(self, training: Training) -> None:
        """Looks at the model as it is before the first round.

        Raises:
            TrainingError: DDP would have to follow it, or there is no data to look at.
            ConfigError: There are too few steps.
        """
        if world_size() > 1 and own_part() == (0, 1):  # those that act together sum gradients without DDP
            raise TrainingError(
                "recap makes parameters smaller as it trains, which DDP does not follow",
                "train by `wheretune tune`, in one process, or by another schedule",
            )
        self._training = training
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        self._state: State = self._schedule.init(
            len(self._stack), self._chosen, shapes, training.steps, self._seed
        )  # fmt: skip
        names = {parameter: name for name, parameter in self._parameters.items()}
        for group in self._groups:
            for path, dim, _ in group.maps():
                module = self._module(group, path)
                whole = names[module.weight].removesuffix(".weight")
                self._maps[group.layer, path] = CutMap(whole, module, dim, training.optimizer)
        self.ever, self._round = frozenset(), None

    def before_step(self, step: int) -> None:
        """Makes the working copy, a new one where a round begins.

        Raises:
            TrainingError: There are no texts to look at, or the model gives no loss.
            ModelError: The layers cannot run with fewer heads or units.
        """
        if self._schedule.idle:
            return
        number, left = self._schedule.round(self._state, step)
        begins = number != self._round
        if begins:
            self.pause()
            self._write_back()
            self._choose(number)
            self._round = number
        if not self._cut:
            for one in self._maps.values():
                one.cut()
            self._cut = True
        if begins:
            self._watch(number)
        if self._schedule.restart:
            for group in self._training.optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"]) * left

    def penalty(self) -> None:
        return None

    def after_step(self, step: int) -> None:
        if any(group["lr"] > 0 for group in self._training.optimizer.param_groups):
            self.ever = frozenset(self._chosen)
        if self._cut:
            for one in self._maps.values():
                for tensor in one.tensors:
                    tensor.keep_up()
            self._compare(step)

    def pause(self) -> None:
        """Makes every parameter whole again, with what was learned; what is removed is 0 unless `full` is asked."""
        if not self._cut:
            return
        self._cut = False
        for one in self._maps.values():
            one.mend()
            if self._schedule.result == "full":
                for tensor in one.tensors:
                    tensor.put_back()

    def end(self) -> None:
        """Leaves the model whole, and nothing on it."""
        self.pause()

    def state(self) -> dict[str, Tensor]:
        self.pause()
        kept: dict[str, Tensor] = {}
        for one in self._maps.values():
            for tensor in one.tensors:
                kept[f"removed/{tensor.name}"], kept[f"trained/{tensor.name}"] = tensor.removed, tensor.trained
                kept[f"values/{tensor.name}"] = tensor.values
        kept = {name: value.clone() for name, value in kept.items()}
        round_ = torch.tensor(-1 if self._round is None else self._round)
        ever = torch.tensor(sorted(self.ever), dtype=torch.int64)
        return kept | {"round": round_, "ever": ever, "of": label(self._schedule, self._training.steps, self._seed)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on where a training by the same schedule stopped.

        Raises:
            TrainingError: Another schedule wrote the state, or the training was one of other steps.
        """
        check_label(state, label(self._schedule, self._training.steps, self._seed))
        for one in self._maps.values():
            for tensor in one.tensors:
                tensor.removed, tensor.trained = (
                    state[f"{what}/{tensor.name}"].clone() for what in ("removed", "trained")
                )
                tensor.values = state[f"values/{tensor.name}"].to(tensor.parameter.device).clone()
        number = int(state["round"])
        self._round = None if number < 0 else number
        self.ever = frozenset(state["ever"].tolist())

    # --- a round begins ---------------------------------------------------------------------------

    def _write_back(self) -> None:
        """Makes the full model of what the last round left: its removed rows, and moments that grew older."""
        for one in self._maps.values():
            for tensor in one.tensors:
                if self._round is not None:
                    tensor.put_back()
                    tensor.fade()
                tensor.forget()

    def _choose(self, number: int) -> None:
        """Says what is removed, and what of the rest trains."""
        kinds = [self._groups[::2], self._groups[1::2]]  # attention and MLP, layer by layer
        gone = {(group.layer, group.kind): np.zeros(group.units, dtype=bool) for group in self._groups}
        for part in range(self._schedule.substeps if self._schedule.prune else 0):
            importance = self._looked_at(number, self._importances)
            for groups in kinds:
                self._prune(groups, importance, gone, part + 1)
            if number == part == 0:
                self._check_small(number)
        scores = self._looked_at(number, self._row_scores) if self._schedule.mask else {}
        for groups in kinds:
            self._mask([self._maps[group.layer, path] for group in groups for path, *_ in group.maps()], scores)

    def _prune(
        self,
        groups: Sequence[Group],
        importance: Mapping[Any, NDArray[np.float64]],
        gone: dict[tuple[int, Any], NDArray[np.bool_]],
        parts: int,
    ) -> None:
        """Removes the units of some groups that matter least, those of `gone` among them, and notes them there."""
        share = self._schedule.prune * parts / self._schedule.substeps
        keys = [(group.layer, group.kind) for group in groups]
        values = [np.where(gone[one], -1.0, importance[one]) for one in keys]  # what is gone comes first
        now = least(values, share_of(share, sum(group.units for group in groups)), MOST)
        for group, one, units in zip(groups, keys, now, strict=True):
            self._remove(group, units & ~gone[one])
            gone[one] = units

    def _mask(self, maps: Sequence[CutMap], scores: Mapping[Any, NDArray[np.float64]]) -> None:
        """Says which rows of some maps train."""
        kept = [one.weight.kept for one in maps]
        if self._schedule.mask:
            values = [scores[one.weight.name][places.numpy()] for one, places in zip(maps, kept, strict=True)]
            masked = least(values, share_of(self._schedule.mask, sum(map(len, kept))))
            kept = [places[torch.from_numpy(~out)] for places, out in zip(kept, masked, strict=True)]
        for one, places in zip(maps, kept, strict=True):
            one.train(places)

    def _remove(self, group: Group, units: NDArray[np.bool_]) -> None:
        for path, _, width in group.maps():
            places = torch.from_numpy(np.flatnonzero(np.repeat(units, width)))
            for tensor in self._maps[group.layer, path].tensors:
                tensor.remove(places)

    def _check_small(self, number: int) -> None:
        """Sees, by running it both ways, that the layers bear it to be smaller.

        Raises:
            ModelError: They do not.
        """
        batch = next(self._batches(number))
        with torch.no_grad(), evaluating(self._stack.model):
            plain = float(self._loss(batch))
            for one in self._maps.values():
                one.train(one.weight.kept)
                one.cut()
            try:
                small = float(self._loss(batch))
            except REFUSALS:
                small = float("inf")
            coarse = any(one.coarse for one in self._maps.values())
            for one in self._maps.values():
                one.mend()
        if abs(small - plain) > (COARSE if coarse else FINE) * max(1.0, abs(plain)):
            raise refusal(self._stack.base)

    # --- what is looked at ------------------------------------------------------------------------

    def _looked_at(self, number: int, measure: Any) -> dict[Any, NDArray[np.float64]]:
        """The mean over a round's batches of what `measure` makes of the gradients of one."""
        tensors = [tensor for one in self._maps.values() for tensor in one.tensors]
        found: dict[Any, Tensor] = {}
        batches = 0
        with evaluating(self._stack.model), torch.enable_grad():
            for batch in self._batches(number):
                gradients = torch.autograd.grad(
                    self._loss(batch), [tensor.parameter for tensor in tensors], allow_unused=True
                )
                by_name = {
                    tensor.name: torch.zeros_like(tensor.parameter) if gradient is None else gradient
                    for tensor, gradient in zip(tensors, gradients, strict=True)
                }
                for what, values in measure(by_name).items():
                    found[what] = found.get(what, 0) + values.double()
                batches += 1
        return {what: (values / batches).cpu().numpy() for what, values in found.items()}

    def _importances(self, gradients: Mapping[str, Tensor]) -> dict[Any, Tensor]:
        """By layer and group of maps the importance of every unit."""
        found: dict[Any, Tensor] = {}
        for group in self._groups:
            each = []
            for path, dim, width in group.maps():
                for tensor in self._maps[group.layer, path].tensors:
                    squares = (gradients[tensor.name] * tensor.parameter.detach()).square()
                    each.append(along(squares, dim).view(group.units, width).sum(1))
            found[group.layer, group.kind] = torch.stack(each).mean(0)
        return found

    def _row_scores(self, gradients: Mapping[str, Tensor]) -> dict[Any, Tensor]:
        """By map the sum of g^2 over every row, or column."""
        return {one.weight.name: along(gradients[one.weight.name].square(), one.dim) for one in self._maps.values()}

    def _loss(self, batch: Mapping[str, Any]) -> Tensor:
        device = model_device(self._stack.model)
        output = self._stack.model(
            **{name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        )
        loss: Tensor | None = output["loss"] if isinstance(output, dict) else getattr(output, "loss", None)
        if loss is None:
            raise TrainingError("the model gives no loss, by which recap finds what matters", "take another schedule")
        return loss

    def _batches(self, number: int) -> Iterator[Mapping[str, Any]]:
        """Some batches of the training data, which hang on the seed and the round alone."""
        loader = self._training.loader
        if loader is None or not isinstance(loader.dataset, Sized) or len(loader.dataset) == 0:
            raise TrainingError(
                "recap looks at texts of its own choice, and the training data has no length or is not known",
                "train on a data set that is no stream, in a Trainer",
            )
        rows: Any = loader.dataset
        drawn = np.random.default_rng(key("recap", self._seed, number)).permutation(len(rows))
        size = self._training.batch_size
        for place in range(0, min(len(drawn), size * self._schedule.batches), size):
            yield loader.collate_fn([rows[int(row)] for row in drawn[place : place + size]])

    # --- proof ------------------------------------------------------------------------------------

    def _watch(self, number: int) -> None:
        """Notes one map of which a part trains, before the first step of a round."""
        cut = [one for one in self._maps.values() if one.weight.canvas is not None and len(one.weight.trained)]
        if cut:
            one = min(cut, key=lambda one: key("witness", number, one.weight.name))
            self._seen = (one, one.weight.masked(), one.weight.parameter.detach().clone())

    def _compare(self, step: int) -> None:
        """Proves that what is masked has not changed in a step, and what trains has.

        Raises:
            EngagementError: What is masked has.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            return
        one, masked, training = seen
        if not torch.equal(masked, one.weight.masked()):
            raise EngagementError(
                f"what is masked of {one.weight.name} changed at step {step}", "look for code that writes to weights"
            )
        largest = max(group["lr"] for group in self._training.optimizer.param_groups)
        if torch.equal(training, one.weight.parameter) and largest > LEAST_RATE:
            log.warning("%s was due at step %d and did not change in it", one.weight.name, step)

    def _module(self, group: Group, path: str) -> Any:
        return linear_map(self._stack, group, path)


def along(values: Tensor, dim: int) -> Tensor:
    """The sum of every row (dim 0) or column (1) of a matrix; a vector has rows of one."""
    return values if values.ndim == 1 else values.sum(1 - dim)
