"""LoRA and its kin, and IA3, through PEFT, on the chosen layers' maps named one by one.

PEFT is given full module names, never a pattern: its own way of finding layers by pattern also hits a vision tower.
What is saved is a plain PEFT checkpoint of the headless base model.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wheretune.errors import ConfigError, DeltaError, ModelError
from wheretune.tuners.base import Attached, drawing
from wheretune.types import LayerParts, LayerScore, LayerStack, ModelInfo

if TYPE_CHECKING:  # opening PEFT takes seconds, and many commands need none of it
    from peft import PeftConfig

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_BELOW_PEFT = "base_model.model."  # what PeftModel puts before every name
_ADAPTER = "default"


# --- what PEFT does for us ----------------------------------------------------------------------


@contextmanager
def _quietly() -> Iterator[None]:
    """PEFT warns that it sets for itself how GPT-2's maps lie in memory, which is what it should do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        yield


def attach(stack: LayerStack, config: Any, seed: int) -> tuple[Any, Attached]:
    """Lets PEFT put an adapter into the base model.

    Args:
        stack: Whose base is adapted, in place: `stack.model` stays the user's own.
        config: Names every module in full.
        seed: Of what PEFT draws.

    Returns:
        PEFT's tuner, and what can be done with it.

    Raises:
        ModelError: The model carries a PEFT adapter already, or PEFT adapted other modules than the config names.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = stack.base
    if any(isinstance(part, BaseTunerLayer) for part in base.modules()):
        raise ModelError("the model carries a PEFT adapter already", "undo or merge it first")
    plain = copy.deepcopy(config)  # PEFT shortens the names in its own copy
    wanted = set(plain.target_modules)
    weights = {name: _data(base.get_submodule(name)) for name in wanted}
    flags = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    with drawing(seed), _quietly():
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](base, config, _ADAPTER)
    for parameter, flag in flags:
        parameter.requires_grad = flag
    replaced = {  # by PiSSA; of all others nothing is kept
        name: weight
        for name, weight in weights.items()
        if _data(base.get_submodule(f"{name}.base_layer")).data_ptr() != weight.data_ptr()
    }
    del weights

    def give_back(merged: bool) -> None:
        with _quietly():
            (tuner.merge_and_unload if merged else tuner.unload)()
        vars(base).pop("peft_config", None)  # PEFT's newer versions take it off themselves
        for name, weight in ({} if merged else replaced).items():
            rest: Any = base.get_submodule(name).weight
            rest.data = weight.to(rest.device)  # the model may have been moved meanwhile

    def save(folder: Path, model: ModelInfo) -> None:
        plain.fan_in_fan_out = config.fan_in_fan_out
        _write(folder, plain, _state(base), model)

    if set(tuner.targeted_module_names) != wanted:
        give_back(merged=False)
        raise ModelError("PEFT adapted other modules than the plan names", "report this with the name of the model")
    own = {id(parameter) for parameter, _ in flags}
    parameters = [p for n, p in base.named_parameters() if id(p) not in own and p.requires_grad]
    return tuner, Attached(parameters, lambda: give_back(False), lambda: give_back(True), save)


def _data(linear: nn.Module) -> Tensor:
    weight: Any = linear.weight
    data: Tensor = weight.data
    return data


def _state(base: nn.Module) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(base, save_embedding_layers=False)
    return state


def _write(folder: Path, config: "PeftConfig", state: dict[str, Tensor], model: ModelInfo) -> None:
    """A checkpoint as PeftModel writes it for the headless base model."""
    config = copy.deepcopy(config)
    config.inference_mode = True
    config.base_model_name_or_path = model.name
    config.revision = model.revision
    folder.mkdir()
    tensors = {_BELOW_PEFT + name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    config.save_pretrained(str(folder))


def attach_saved(stack: LayerStack, folder: Path) -> Attached:
    """Puts a saved PEFT checkpoint on the base model.

    Raises:
        DeltaError: The checkpoint cannot be read or does not fit the model.
    """
    from peft import PeftConfig, set_peft_model_state_dict

    try:
        config = PeftConfig.from_pretrained(str(folder))
        saved = load_file(folder / TENSORS)
    except (OSError, ValueError, TypeError) as error:
        raise DeltaError(f"{folder} holds no PEFT checkpoint ({error})", "tune again, or restore the folder") from error
    _, attached = attach(stack, config, seed=0)
    state = {name.removeprefix(_BELOW_PEFT): value for name, value in saved.items()}
    result: Any = set_peft_model_state_dict(stack.base, state)
    if result.unexpected_keys or set(state) != set(_state(stack.base)):
        attached.detach()
        raise DeltaError(f"{folder} does not fit the model", "open the model that it was made from")
    return attached


def _names(stack: LayerStack, layers: Sequence[int], targets: str) -> list[str]:
    """The full names, below the base, of the maps that `targets` means in the chosen layers."""
    every = [stack.layers[layer] for layer in layers]
    return [f"{layer.path}.{path}" for layer in every for path in layer.parts.targets(targets)]


def _maps(layers: Sequence[LayerScore], chosen: Sequence[int], targets: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of the maps that `targets` means in the chosen layers."""
    every = [layers[layer].parts for layer in chosen]
    return [parts.maps[path] for parts in every for path in parts.targets(targets)]


def _check_rank(name: str, r: int, alpha: float, dropout: float) -> None:
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ConfigError(
            f"{name} has rank {r}, alpha {alpha} and dropout {dropout}",
            "give a rank of 1 or more, alpha above 0 and dropout from 0 to below 1",
        )


# --- the tuners ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoRA:
    """W + alpha / r B A, with B at zero: LoRA (Hu et al., ICLR 2022).

    Attributes:
        r: The rank; 16 as in P and T.
        alpha: Scales what is added; 32 as in P and T.
        dropout: On the adapter's input.
        targets: `attention` (query and value, as in the papers), `all-linear`, or names of maps.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "attention"
    name: ClassVar[str] = "lora"
    needs_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rank(self.name, self.r, self.alpha, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in."""
        return attach(stack, _lora(self, _names(stack, layers, self.targets)), seed)[1]

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """R (inputs + outputs) a map."""
        return sum(self.r * (out + into) for out, into in _maps(all_layers, layers, self.targets))


@dataclass(frozen=True)
class DoRA:
    """LoRA whose sum with W is normed column by column and given a trained length: DoRA (Liu et al., ICML 2024).

    Attributes:
        r: The rank.
        alpha: Scales what is added.
        dropout: On the adapter's input.
        targets: As for LoRA.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "attention"
    name: ClassVar[str] = "dora"
    needs_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rank(self.name, self.r, self.alpha, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in."""
        return attach(stack, _lora(self, _names(stack, layers, self.targets), use_dora=True), seed)[1]

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """R (inputs + outputs) + outputs a map."""
        return sum(self.r * (out + into) + out for out, into in _maps(all_layers, layers, self.targets))


@dataclass(frozen=True)
class PiSSA:
    """LoRA that starts as the r largest singular triplets of W, which keeps the rest (Meng et al., NeurIPS 2024).

    While it trains the chosen maps hold the rest of W; `undo` gives W back. It is saved as the LoRA of rank 2 r, with
    plain names and the original W, that does the same: B A - B0 A0.

    Attributes:
        r: The rank; no more than a map has rows or columns.
        alpha: Scales the adapter; r in the paper, so that scaling is 1, and likewise where 0 is given.
        dropout: On the adapter's input.
        targets: As for LoRA.
    """

    r: int = 16
    alpha: float = 0.0
    dropout: float = 0.0
    targets: str = "attention"
    name: ClassVar[str] = "pissa"
    needs_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rank(self.name, self.r, self.alpha or self.r, self.dropout)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT take the maps apart.

        Raises:
            ConfigError: A map has fewer rows or columns than r.
            ModelError: The maps are quantised.
        """
        every = [stack.layers[layer].parts for layer in layers]
        self._check([parts.maps[path] for parts in every for path in parts.targets(self.targets)])
        names = _names(stack, layers, self.targets)
        weights: list[Any] = [stack.base.get_submodule(name).weight for name in names]
        if not all(weight.is_floating_point() for weight in weights):
            raise ModelError("pissa takes weights apart, and these are quantised", "take lora, or leave --quantize out")
        _, attached = attach(stack, _lora(self, names, init_lora_weights="pissa"), seed)
        first = {name: value.detach().clone() for name, value in _state(stack.base).items()}

        def save(folder: Path, model: ModelInfo) -> None:
            now = _state(stack.base)
            both = {
                name: torch.cat([now[name], first[name]], dim=0)
                if ".lora_A." in name
                else torch.cat([now[name], -first[name]], dim=1)
                for name in now
            }
            plain = LoRA(2 * self.r, 2 * (self.alpha or self.r), self.dropout)  # the scaling alpha / r stays
            _write(folder, _lora(plain, names), both, model)

        return replace(attached, save=save)

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """R (inputs + outputs) a map."""
        maps = _maps(all_layers, layers, self.targets)
        self._check(maps)
        return sum(self.r * (out + into) for out, into in maps)

    def _check(self, maps: Sequence[tuple[int, int]]) -> None:
        least = min((min(shape) for shape in maps), default=self.r)
        if self.r > least:
            raise ConfigError(f"pissa has rank {self.r}", f"give at most {least}, the rank of the least map")


@dataclass(frozen=True)
class IA3:
    """Trained factors on what key and value maps put out and on what the MLP's last map reads: (IA)^3.

    Liu et al., NeurIPS 2022, equation 2. Where one map makes queries, keys and values, all of its output is scaled, as
    PEFT does for GPT-2.
    """

    name: ClassVar[str] = "ia3"
    needs_layers: ClassVar[bool] = True

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the factors in.

        Raises:
            ModelError: A layer's attention or MLP was not found.
        """
        from peft import IA3Config

        every = [stack.layers[layer] for layer in layers]
        down = [f"{layer.path}.{_ia3_maps(layer.parts)[1]}" for layer in every]
        out = [f"{layer.path}.{path}" for layer in every for path in _ia3_maps(layer.parts)[0]]
        config = IA3Config(target_modules=out + down, feedforward_modules=down)
        return attach(stack, config, seed)[1]

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """Key and value outputs, and the MLP's width, a layer."""
        total = 0
        for layer in layers:
            parts = all_layers[layer].parts
            scaled, down = _ia3_maps(parts)
            total += sum(parts.maps[path][0] for path in scaled) + parts.maps[down][1]
        return total


def _ia3_maps(parts: LayerParts) -> tuple[list[str], str]:
    if parts.key is None or parts.value is None or parts.mlp_output is None:
        raise ModelError("no key, value and MLP output maps were found in the layers", "take lora with targets=...")
    return list(dict.fromkeys([parts.key, parts.value])), parts.mlp_output


@dataclass(frozen=True)
class AdaLoRA:
    """LoRA as P diag(e) Q, whose smallest entries e are struck out as it trains (Zhang et al., ICLR 2023).

    Decided where the paper differs from set to set: ranks are shared out between a tenth and the last three tenths of
    the steps, every `every` steps. The penalty on P and Q for not being orthogonal, and the sharing out, happen while
    wheretune trains; in a Trainer of your own call `tuned.attached.companion`.

    Attributes:
        r: The mean rank at the end.
        start: The rank at the beginning; above r.
        alpha: Scales what is added.
        dropout: On the adapter's input.
        every: Steps between two looks at the ranks.
        orthogonality: Weight of the penalty.
        targets: As for LoRA.
    """

    r: int = 8
    start: int = 12
    alpha: float = 32.0
    dropout: float = 0.0
    every: int = 10
    orthogonality: float = 0.1
    targets: str = "attention"
    name: ClassVar[str] = "adalora"
    needs_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rank(self.name, self.r, self.alpha, self.dropout)
        if self.start <= self.r or self.every < 1 or self.orthogonality < 0:
            raise ConfigError(
                f"adalora has start={self.start}, every={self.every} and orthogonality={self.orthogonality}",
                "give a start above r, 1 or more steps between looks, and a penalty of 0 or more",
            )

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Lets PEFT put the adapters in."""
        from peft import AdaLoraConfig

        config = AdaLoraConfig(
            target_modules=_names(stack, layers, self.targets),
            init_r=self.start,
            target_r=self.r,
            lora_alpha=_plain(self.alpha),
            lora_dropout=self.dropout,
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1,  # the companion is told when training begins
        )
        tuner, attached = attach(stack, config, seed)
        assert attached.save is not None
        write = attached.save

        def save(folder: Path, model: ModelInfo) -> None:
            pattern, config.rank_pattern = config.rank_pattern, None  # ranks that were struck out are kept, as zeros
            write(folder, model)
            config.rank_pattern = pattern

        return replace(attached, save=save, companion=_SharingOut(tuner, config))

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """Start (inputs + outputs + 1) a map: what is struck out is set to zero, and still counted."""
        return sum(self.start * (out + into + 1) for out, into in _maps(all_layers, layers, self.targets))


class _SharingOut:
    """Drives PEFT's allocation of ranks, and lets it go on after a stop."""

    def __init__(self, tuner: Any, config: Any) -> None:
        self._tuner, self._config = tuner, config

    def begin(self, steps: int) -> None:
        if steps < 2:
            raise ConfigError("adalora cannot share out ranks in one step", "train for more steps")
        self._config.total_step, self._config.tinit, self._config.tfinal = steps, steps // 10, 3 * steps // 10

    def penalty(self) -> Tensor:
        """Mean Frobenius norm of P^T P - I and Q Q^T - I, as PEFT computes it, times its weight."""
        factors = [(n, p) for n, p in self._tuner.model.named_parameters() if "lora_A." in n or "lora_B." in n]
        norms = []
        for name, factor in factors:
            square = factor @ factor.T if "lora_A." in name else factor.T @ factor
            norms.append(torch.linalg.norm(square - torch.eye(len(square), device=square.device)))
        mean: Tensor = torch.stack(norms).mean()
        return float(self._config.orth_reg_weight) * mean

    def after_step(self, step: int) -> None:
        self._tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        ranks = self._tuner.rankallocator
        kept = {"mean": ranks.exp_avg_ipt, "spread": ranks.exp_avg_unc}
        state = {f"{kind}/{name}": value for kind, values in kept.items() for name, value in values.items()}
        pattern = self._config.rank_pattern or {}
        return state | {f"ranks/{name}": torch.tensor(ranks) for name, ranks in pattern.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        ranks, device = self._tuner.rankallocator, next(self._tuner.model.parameters()).device
        state = {name: value.to(device) for name, value in state.items()}
        ranks.exp_avg_ipt = {n.removeprefix("mean/"): v for n, v in state.items() if n.startswith("mean/")}
        ranks.exp_avg_unc = {n.removeprefix("spread/"): v for n, v in state.items() if n.startswith("spread/")}
        ranks.ipt = dict(ranks.exp_avg_ipt)  # read for its names alone
        pattern = {n.removeprefix("ranks/"): v.tolist() for n, v in state.items() if n.startswith("ranks/")}
        self._config.rank_pattern = pattern or None


# --- PEFT's LoRA config -------------------------------------------------------------------------


def _lora(
    tuner: LoRA | DoRA | PiSSA, names: list[str], *, use_dora: bool = False, init_lora_weights: Any = True
) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        target_modules=names,
        r=tuner.r,
        lora_alpha=_plain(tuner.alpha or tuner.r),
        lora_dropout=tuner.dropout,
        use_dora=use_dora,
        init_lora_weights=init_lora_weights,
    )


def _plain(alpha: float) -> Any:
    """PEFT's alpha is a whole number, and so it is written where it can be."""
    return int(alpha) if alpha == int(alpha) else alpha
