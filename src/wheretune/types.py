"""The frozen types that the stages hand each other, and how they are written to and read from JSON.

    model + data -> States -> LayerScores -> Plan -> RunSpec -> RunResult

Layers are counted from 0 wherever a machine reads. Everything but `Layer`, `LayerStack` and `States`
is plain data: `save` writes it as JSON, `load` reads it back and refuses what does not fit.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import ConfigDict, TypeAdapter, ValidationError
from rich.console import Group
from rich.jupyter import JupyterMixin
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from wheretune.errors import ConfigError
from wheretune.files import digest, write_json
from wheretune.show.figures import heatmap_figure, profile_figure, violin_figure
from wheretune.show.tables import count, profile_table, seconds, short, short_name, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pooling = Literal["token", "mean"]
Quantize = Literal["4bit", "8bit"]
Task = Literal["classification", "regression", "unlabelled"]


@dataclass(frozen=True)
class Spec:
    """Enough to build an object again: its name in `catalog` and its hyperparameters."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, thing: Any) -> "Spec":
        """The spec of a frozen dataclass with a class attribute `name`; such a one inside it becomes a spec too."""
        params = {}
        for part in dataclasses.fields(thing):
            value = getattr(thing, part.name)
            inner = dataclasses.is_dataclass(value) and hasattr(value, "name")
            params[part.name] = dataclasses.asdict(cls.of(value)) if inner else value
        return cls(thing.name, params)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.name}({inside})" if inside else self.name


# --- what `anatomy` finds and `capture` streams -------------------------------------------------


@dataclass(frozen=True)
class LayerParts:
    """What a tuner must know of a layer to attach to it, and to count what it trains without the model.

    Attributes:
        maps: The linear maps: path below the layer -> (outputs, inputs), in the order of their modules.
        query: The map that makes the queries of self-attention; None where it was not found, as below.
        key: Likewise; where one map makes queries, keys and values, its path stands in all three.
        value: Likewise.
        attention_output: The map at the end of self-attention.
        mlp_output: The map at the end of the MLP.
        heads: Attention heads.
        biases: How many numbers all biases of the layer hold.
        dropout: Whether it drops anything out in training.
        kept: What the MLP's activation keeps for the backward pass, in multiples of its input.
        norm_first: Whether a norm stands before the queries, keys and values.
    """

    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    query: str | None = None
    key: str | None = None
    value: str | None = None
    attention_output: str | None = None
    mlp_output: str | None = None
    heads: int = 0
    biases: int = 0
    dropout: bool = False
    kept: int = 1
    norm_first: bool = False

    def targets(self, wanted: str) -> list[str]:
        """The maps that `wanted` names, each once.

        Args:
            wanted: `attention` (query and value, or the one map that makes both), `all-linear`, or names with commas
                between them, each the end of a path.

        Raises:
            ConfigError: A name fits no map of the layer.
        """
        if wanted == "attention":
            found = [self.query, self.value]
            if None in found:
                raise ConfigError("no query and value maps were found in the layers", f"name targets: {self._known}")
            return list(dict.fromkeys(path for path in found if path is not None))
        if wanted == "all-linear":
            return list(self.maps)
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        fitting = {name: [path for path in self.maps if f".{path}".endswith(f".{name}")] for name in names}
        missing = [name for name, paths in fitting.items() if not paths]
        if missing or not names:
            raise ConfigError(
                f"targets={','.join(missing)} name no linear map of a layer",
                f"take attention, all-linear or some of {self._known}",
            )
        chosen = {path for paths in fitting.values() for path in paths}
        return [path for path in self.maps if path in chosen]

    @property
    def _known(self) -> str:
        return ", ".join(self.maps) or "none (the scores were made by an older version: score again)"


@dataclass(frozen=True, eq=False)
class Layer:
    """One transformer layer: its index from 0, its path below the base model, the module and what it is made of."""

    index: int
    path: str
    module: nn.Module
    parts: LayerParts = LayerParts()


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The layers of a model in the order in which they run.

    Attributes:
        model: The model as the user has it, with whatever sits on top.
        base: The headless transformer inside `model` (or `model` itself).
        base_path: The path of `base` below `model`, empty if they are the same.
        layers: The layers, first to last.
        hidden_size: d, the width of the hidden states.
        causal: A decoder, whose representative token is the last one; otherwise the first.
        attribute: Where the user said the layers are, if they had to.
    """

    model: nn.Module
    base: nn.Module
    base_path: str
    layers: tuple[Layer, ...]
    hidden_size: int
    causal: bool
    attribute: str | None = None

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True, eq=False)
class States:
    """One batch of representative tokens; streamed to the scorers, never stored.

    Attributes:
        tokens: The embeddings' output and the output of every layer, fp32.
        sample_ids: The row of each sample in the data set, for messages.
        labels: Class indices or numbers, where the data has labels.
        reduced: What a scorer's `reduction` made of all tokens of every layer, by the scorer's name.
        meanings: The semantic bases of the labels and which of them each sample has, where a scorer reads them.
    """

    tokens: Float[Tensor, "batch layer_plus_1 hidden"]
    sample_ids: tuple[int, ...]
    labels: Shaped[Tensor, " batch"] | None
    reduced: dict[str, Float[Tensor, "batch layer"]]
    meanings: "Meanings | None" = None


@dataclass(frozen=True, eq=False)
class Meanings:
    """What the labels of a batch mean in the model's last latent space.

    Attributes:
        bases: The semantic base of every label that the data has, fp32.
        targets: The row of `bases` that is each sample's.
    """

    bases: Float[Tensor, "label hidden"]
    targets: Int[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of one batch: what the loss of a fresh head asks of the parameters of every layer.

    Attributes:
        norms: The L2 norm of the gradient of the batch's mean loss, a layer.
        squares: The mean over a layer's parameters of the squared gradient of each sample's own loss, where a scorer
            reads it.
        batch_squares: The same of the batch's mean loss.
        sample_ids: The row of each sample in the data set.
    """

    norms: Float[Tensor, " layer"]
    squares: Float[Tensor, "batch layer"] | None
    batch_squares: Float[Tensor, " layer"]
    sample_ids: tuple[int, ...]


# --- what is written to disk --------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """Which model: what it was called, which revision, and the SHA-256 over its base weights.

    Attributes:
        layers_attribute: Where the user said the layers are, if they had to.
        quantize: How its linear maps were held when it was hashed, if not as they are.
        prefix: What stands before the names of the headless model's parameters in a model with a head.
    """

    name: str
    revision: str | None
    hash: str
    layers: int
    hidden_size: int
    parameters: int
    causal: bool
    layers_attribute: str | None = None
    quantize: Quantize | None = None
    prefix: str = ""

    def __str__(self) -> str:
        return f"{short_name(self.name)} ({self.layers} layers, {count(self.parameters)} parameters)"


@dataclass(frozen=True)
class DataSpec:
    """Which data, and how it is read.

    Attributes:
        source: A local file, a hub data set as `name:config:split`, or a word for data in memory.
        text_column: The column with the (first) text.
        pair_column: The column with the second text of a pair.
        label_column: The column with the label; None means `label` if there is one.
        task: `auto` decides from the labels.
        max_samples: At most so many rows, drawn with `seed`; None means all.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        seed: Of the draw of `max_samples` rows.
        target_column: The column whose text follows; its first token is what a language model should say next.
        verbalizer: By class the word that a language model should say next; None takes the class's name.
    """

    source: str
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str | None = None
    task: Literal["auto", "classification", "regression"] = "auto"
    max_samples: int | None = None
    max_length: int | None = None
    seed: int = 0
    target_column: str | None = None
    verbalizer: dict[str, str] | None = None


@dataclass(frozen=True)
class DataInfo:
    """What was read: the spec, the task it makes, its classes, its rows and a hash of its content."""

    spec: DataSpec
    rows: int
    task: Task
    classes: tuple[str, ...]
    hash: str


@dataclass(frozen=True)
class LayerScore:
    """The score of one layer.

    Attributes:
        index: Counted from 0.
        score: The score; None for a layer that is no candidate.
        std: The population standard deviation over samples, where the score is a mean over samples.
        path: The layer's path below the base model.
        parameters: The layer's parameters.
        excluded: Why the layer is no candidate.
        parts: Its linear maps and what else a tuner counts by.
    """

    index: int
    score: float | None
    std: float | None
    path: str
    parameters: int
    excluded: str | None = None
    parts: LayerParts = LayerParts()


@dataclass(frozen=True)
class Settlement:
    """Whether a choice was settled before all data was read.

    Attributes:
        selector: The choice.
        layers: The layers it chose from what had been read.
        settled: Whether no contest was open any more.
        n_samples: Samples read when that was said.
        confidence: The probability that what was said is true, whenever it was said.
        tolerance: A layer counts as the better one if it is worse by no more than this.
        method: The kind of bound.
        open: The pairs (chosen layer, rival) that were too close to tell.
        least: Samples it takes before anything is said.
    """

    selector: Spec
    layers: tuple[int, ...]
    settled: bool
    n_samples: int
    confidence: float
    tolerance: float
    method: str
    open: tuple[tuple[int, int], ...]
    least: int = 0

    def __str__(self) -> str:
        what = f"{self.selector} chooses {', '.join(map(str, self.layers))}"
        if self.n_samples < self.least:
            return f"{what}, but {self.n_samples} samples are too few to call that settled: it takes {self.least}"
        if self.settled:
            return f"{what}: settled after {self.n_samples} samples ({self.confidence:.0%}, {self.method})"
        pairs = ", ".join(f"{winner} and {loser}" for winner, loser in self.open)
        return f"{what}, but {self.n_samples} samples do not settle it: too close to tell are layers {pairs}"


@dataclass(frozen=True)
class Confidence:
    """How sure a choice is: how often resamples of the data would make it.

    Attributes:
        selection: The share of resamples that choose the very same layers.
        layers: The share of resamples that choose each layer.
        flat: Whether the layers' scores differ by less than one layer's score varies over samples; where scores are no
            means over samples, by less than twice their standard error.
    """

    selection: float
    layers: tuple[float, ...]
    flat: bool

    def __str__(self) -> str:
        doubtful = [f"{layer} ({share:.0%})" for layer, share in enumerate(self.layers) if 0.05 < share < 0.95]
        words = f"{self.selection:.0%} of resamples choose the same layers"
        if doubtful:
            words += f"; in doubt: layers {', '.join(doubtful)}"
        if self.selection < 0.5:
            words += "; the choice is unstable: most resamples make another"
        return words + ("; the profile is flat: layers differ by less than their scores vary" if self.flat else "")


@dataclass(frozen=True)
class Choice:
    """What a selector makes of some scores.

    Attributes:
        selector: The selector.
        layers: The layers it chooses, counted from 0, ascending.
        confidence: How sure that is; None where nothing was sampled, or the selector reads no scores.
        reason: What an adaptive selector went by, with its numbers.
    """

    selector: Spec
    layers: tuple[int, ...]
    confidence: Confidence | None
    reason: str | None

    def __str__(self) -> str:
        words = f"{self.selector} chooses layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))}"
        if self.reason is not None:
            words += f" ({self.reason})"
        return words if self.confidence is None else f"{words}: {self.confidence}"


@dataclass(frozen=True)
class Deviations:
    """How far each latent space is from the label's meaning, over samples, and what each layer gains (SALF).

    Attributes:
        means: Mean deviation before layer 0 and after every layer.
        highest: The highest deviation there can be; the histograms' bins are equal parts of 0 to it.
        counts: Samples a bin, a row a latent space (L + 1).
        gains: Samples a bin of the gain, in equal parts of -highest to highest, a row a layer (L).
        eof_layers: Samples whose gain is largest at each layer: below it a sample would freeze (S algorithm 3).
    """

    means: tuple[float, ...]
    highest: float
    counts: tuple[tuple[int, ...], ...]
    gains: tuple[tuple[int, ...], ...]
    eof_layers: tuple[int, ...]

    def __str__(self) -> str:
        total = sum(self.eof_layers)
        shares = ((count / total, layer) for layer, count in enumerate(self.eof_layers) if count)
        told = ", ".join(f"{layer} ({share:.0%})" for share, layer in sorted(shares, reverse=True)[:5])
        return f"most of the deviation goes at layers (share of texts): {told}"


@dataclass(frozen=True)
class LayerScores(JupyterMixin):
    """The scores of all layers by one scorer, with all it takes to repeat them.

    Attributes:
        scorer: The scorer's spec.
        model: The model that was scored.
        data: The data it was scored on.
        n_samples: The samples the means are over.
        layers: One entry a layer, in order.
        similarity: Mean similarity of every pair of layers (L x L), where the scorer has one.
        covariance: n times the covariance of the layers' scores over resamples of the data (L x L): for scores that are
            means, the population covariance over samples.
        settlement: Whether the pass stopped early, and why.
        seconds: Wall-clock time of the scoring pass.
        versions: The packages that computed it.
        deviations: Of every latent space, where the scorer measures them.
        choice: What one selector makes of the scores, and how sure that is.
        tokens: The mean number of tokens of a text as it was read, special ones included; None where none was read.
    """

    scorer: Spec
    model: ModelInfo
    data: DataInfo
    n_samples: int
    layers: tuple[LayerScore, ...]
    similarity: tuple[tuple[float, ...], ...] | None
    covariance: tuple[tuple[float, ...], ...] | None
    settlement: Settlement | None
    seconds: float
    versions: dict[str, str]
    deviations: Deviations | None = None
    choice: Choice | None = None
    tokens: float | None = None

    @property
    def values(self) -> Float[np.ndarray, " layer"]:
        """The score of every layer; not a number where a layer is no candidate."""
        return np.array([np.nan if layer.score is None else layer.score for layer in self.layers])

    @property
    def stds(self) -> Float[np.ndarray, " layer"]:
        """The standard deviation of every layer's score over samples; not a number where there is none."""
        return np.array([np.nan if layer.std is None else layer.std for layer in self.layers])

    @property
    def digest(self) -> str:
        """SHA-256 over what was measured, without how long it took and what was made of it."""
        content = to_json(self)
        del content["seconds"], content["choice"]
        return digest(content)

    def plot(self, chosen: tuple[int, ...] = (), blocks: tuple[range, ...] = ()) -> "Figure":
        """The score profile with error bars; `chosen` layers are marked and `blocks` shaded."""
        return profile_figure(
            self.values.tolist(),
            self.stds.tolist(),
            label=self.scorer.name.replace("-", " "),
            title=f"{short_name(self.model.name)}: {self.scorer.name}, n = {self.n_samples}",
            blocks=blocks,
            chosen=chosen,
        )

    def plot_deviations(self, before: "LayerScores | None" = None) -> "Figure":
        """The deviations of every latent space as violins (SALF figures 5 and 6), and those `before` tuning.

        Raises:
            ConfigError: These scores, or those before, are not semantic deviations, or the models differ in layers.
        """
        for scores in (self, before):
            if scores is not None and scores.deviations is None:
                raise ConfigError(f"{scores.scorer.name} has no deviations", "use the scorer semantic-deviation")
        if before is not None and len(before.layers) != len(self.layers):
            raise ConfigError("the scores before are of a model with other layers", "score the same model")
        if before is not None and before.scorer != self.scorer:
            raise ConfigError(f"the scores before are by {before.scorer}, these by {self.scorer}", "score alike")
        shown = [("", self)] if before is None else [("before tuning", before), ("after tuning", self)]
        return violin_figure(
            [
                (name, s.deviations.counts, s.deviations.means, s.deviations.highest)
                for name, s in shown
                if s.deviations
            ],
            label="deviation from the label's semantic base",
            title=f"{short_name(self.model.name)}: every latent space, n = {self.n_samples}",
        )

    def plot_similarity(self) -> "Figure":
        """The mean similarity of every pair of layers as a heatmap.

        Raises:
            ConfigError: The scorer compares no pairs of layers.
        """
        if self.similarity is None:
            raise ConfigError(f"{self.scorer.name} has no similarity matrix", "use a centrality scorer")
        return heatmap_figure(
            self.similarity,
            label=f"mean similarity ({self.scorer.name})",
            title=f"{short_name(self.model.name)}: every pair of layers",
        )

    def profile(self, chosen: tuple[int, ...] = ()) -> Table:
        """The score profile as a table with bars; `chosen` layers are marked."""
        title = f"{self.scorer.name} of {self.model}, n = {self.n_samples}"
        return profile_table(title, self.values.tolist(), self.stds.tolist(), chosen)

    def __rich__(self) -> Table:
        return self.profile()

    def __repr__(self) -> str:
        inside = ", ".join(f"{value:.4f}" for value in self.values)
        return f"LayerScores({self.scorer.name}, n={self.n_samples}, [{inside}])"


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one training step for one text.

    Attributes:
        forward: Of the layers' forward pass.
        input_gradients: What brings the gradient down through the layers.
        weight_gradients: What makes the gradients of the weights that train.
    """

    forward: float
    input_gradients: float
    weight_gradients: float

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.input_gradients + self.weight_gradients


@dataclass(frozen=True)
class Memory:
    """Bytes while training, everything in fp32.

    Attributes:
        weights: Of all parameters.
        gradients: Of those that train.
        optimizer: AdamW's two moments of those that train.
        activations: What the layers keep of one batch for its backward pass.
        cache: The stored states of the frozen prefix, of all texts; they may lie on disk.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int

    @property
    def total(self) -> int:
        """All of it, the cache included, wherever it lies."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.cache


@dataclass(frozen=True)
class CostLine:
    """One way of training, and what it costs.

    Attributes:
        name: In words.
        flops: Of one step, a text, making the cache left out.
        memory: At its highest.
        speed_up: Full fine-tuning's FLOPs over these; None where no layer runs any more.
    """

    name: str
    flops: Flops
    memory: Memory
    speed_up: float | None


@dataclass(frozen=True)
class Measured:
    """What a machine showed in a few steps; see `measuring.py`.

    Attributes:
        full_step: Seconds of a step of full fine-tuning.
        step: Seconds of a step of the plan, its states fed from the cache.
        making: Seconds that making the prefix cache of all texts takes.
        cache: What was decided about a cache for the texts that were timed.
        steps: Steps in an epoch.
        epochs: Over which making the cache is spread.
        timed: How many steps of each were timed.
        machine: On what.
    """

    full_step: float
    step: float
    making: float
    cache: str
    steps: int
    epochs: int
    timed: int
    machine: str

    @property
    def steady(self) -> float:
        """Full fine-tuning's time over the plan's, once the cache is made."""
        return self.full_step / self.step

    @property
    def seconds(self) -> float:
        """Of the whole training, making the cache counted."""
        return self.epochs * self.steps * self.step + self.making

    @property
    def speed_up(self) -> float:
        """Full fine-tuning's time over the plan's, making the cache counted."""
        return self.epochs * self.steps * self.full_step / self.seconds

    def __str__(self) -> str:
        return (
            f"measured in {self.timed} steps of each ({self.machine}): {self.full_step:.3g} s a step of full "
            f"fine-tuning, {self.step:.3g} s of the plan, {seconds(self.making)} to make the cache ({self.cache}); so "
            f"{seconds(self.seconds)} for {self.epochs} epochs of {self.steps} steps: {self.speed_up:.2f}x, "
            f"{self.steady:.2f}x once the cache is made"
        )


@dataclass(frozen=True)
class Cost(JupyterMixin):
    """What a plan costs; see `cost.py` for how it is told.

    Attributes:
        trainable_parameters: Of the chosen layers and the head.
        total_parameters: Of the base model and the head.
        expected_speed_up: Full fine-tuning's FLOPs over the plan's, over all epochs, with the prefix cached (making the
            cache counted), one token read in the last layer and frozen layers quiet.
        limit: The same without making the cache, which no number of epochs exceeds; None where no layer runs any more.
        tokens: The length of a text that was assumed: the mean of the data, or 128 where the scorer read no text; None
            in plans of older versions, which have none of what is below either.
        batch_size: The texts in a batch that the memory is for.
        epochs: Over which making the cache is spread.
        lines: Full fine-tuning, plain freezing, that with the prefix cache, that with one token read, and everything.
        measured: What a machine showed, where it was asked.
    """

    trainable_parameters: int
    total_parameters: int
    expected_speed_up: float
    limit: float | None = None
    tokens: float | None = None
    batch_size: int = 0
    epochs: int = 0
    lines: tuple[CostLine, ...] = ()
    measured: Measured | None = None

    def __str__(self) -> str:
        words = f"{self.expected_speed_up:.2f}x the training speed of full fine-tuning"
        if self.tokens is None:
            return words
        words += f" over {self.epochs} epoch{'s' * (self.epochs > 1)}"
        if self.limit is None:
            return f"{words}, and the more of them, the more"
        return f"{words}, and at most {self.limit:.2f}x"

    def __rich__(self) -> Group:
        flops = [
            (
                line.name,
                *(short(part / 1e9) for part in (*dataclasses.astuple(line.flops), line.flops.total)),
                "–" if line.speed_up is None else f"{line.speed_up:.2f}x",
            )
            for line in self.lines
        ]
        memory = [
            (line.name, *(short(part / 1e6) for part in (*dataclasses.astuple(line.memory), line.memory.total)))
            for line in self.lines
        ]
        passes = ("", "forward", "input gradients", "weight gradients", "all", "speed-up")
        kinds = ("", "weights", "gradients", "optimizer", "activations", "cache", "all")
        return Group(
            table(f"GFLOP of a step, for a text of {short(self.tokens or 0)} tokens", passes, flops, left=("",)),
            table(f"MB in fp32, for batches of {self.batch_size} texts", kinds, memory, left=("",)),
            Text(f"with everything, making the cache counted: {self}, by FLOPs"),
            *([] if self.measured is None else [Text(str(self.measured))]),
        )


@dataclass(frozen=True)
class Plan(JupyterMixin):
    """What to tune: one choice on every axis, for one model.

    Attributes:
        layers: The chosen layers, counted from 0, ascending.
        selector: How they were chosen.
        tuner: How they are tuned.
        head: What sits on top.
        schedule: When they train.
        model: The model the plan was made for.
        scores_digest: `LayerScores.digest` of the scores it was made from.
        cost: The estimate.
        confidence: How sure the choice is; None where nothing was sampled, or the selector reads no scores.
        reason: What an adaptive selector went by, with its numbers.
        chosen: The layers as they were scored, with their paths and maps.
        scorer: What scored them.
    """

    layers: tuple[int, ...]
    selector: Spec
    tuner: Spec
    head: Spec
    schedule: Spec
    model: ModelInfo
    scores_digest: str
    cost: Cost
    confidence: Confidence | None = None
    reason: str | None = None
    chosen: tuple[LayerScore, ...] = ()
    scorer: Spec | None = None

    def targets(self, wanted: str = "attention") -> list[str]:
        """Full names, below the headless model, of the linear maps of the chosen layers that `wanted` means.

        Raises:
            ConfigError: A name fits no map; see `LayerParts.targets`.
        """
        return [f"{layer.path}.{path}" for layer in self.chosen for path in layer.parts.targets(wanted)]

    def to_peft(self, method: str = "lora", targets: str = "attention", **options: Any) -> Any:
        """A PEFT config for the chosen layers, which it names module by module; layers it does not name stay alone.

        Args:
            method: Any PEFT method that is put on named modules: `lora`, `ia3`, `loha`, `oft`, `vera` ...
            targets: `attention`, `all-linear` or names of maps; IA3 has its own.
            options: The config's other fields, such as `r=8` or `task_type="SEQ_CLS"`.

        Raises:
            ConfigError: PEFT has no such method, it is not put on modules, or it does not know an option.
        """
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        known: dict[str, Any] = {
            name: config for name, config in configs.items() if "target_modules" in _fields(config)
        }
        if method not in known:
            raise ConfigError(f"PEFT puts no {method!r} on modules", f"known are {', '.join(sorted(known))}")
        unknown = sorted(set(options) - _fields(known[method]))
        if unknown:
            raise ConfigError(f"PEFT's {method} has no option {unknown[0]!r}", "see PEFT's reference")
        if not self.chosen:
            raise ConfigError("the plan names no layers", "make it with this version of wheretune")
        if method != "ia3":
            return known[method](target_modules=self.targets(targets), **options)
        down = [f"{layer.path}.{layer.parts.mlp_output}" for layer in self.chosen]
        scaled = [
            f"{one.path}.{path}" for one in self.chosen for path in dict.fromkeys((one.parts.key, one.parts.value))
        ]
        return known[method](target_modules=scaled + down, feedforward_modules=down, **options)

    def __rich__(self) -> Group:
        share = self.cost.trainable_parameters / self.cost.total_parameters
        rows = [
            ("layers", ", ".join(map(str, self.layers)) or "none"),
            ("of", str(self.model)),
            ("chosen by", str(self.selector)),
            *([("because", self.reason)] if self.reason is not None else []),
            *([("how sure", str(self.confidence))] if self.confidence is not None else []),
            ("tuner", str(self.tuner)),
            ("head", str(self.head)),
            ("schedule", str(self.schedule)),
            ("trainable", f"{count(self.cost.trainable_parameters)} parameters ({share:.1%})"),
            ("expected", str(self.cost)),
        ]
        return Group(table("plan", ("", "choice"), rows, left=("", "choice")))

    def __repr__(self) -> str:
        return f"Plan(layers={list(self.layers)}, tuner={self.tuner}, head={self.head})"


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


@dataclass(frozen=True)
class TrainSettings:
    """How the chosen layers are trained; the defaults are those of PRiSM and its journal version.

    Attributes:
        epochs: Passes over the data.
        learning_rate: The peak, falling linearly to 0.
        batch_size: Texts in a batch.
        warmup_ratio: The share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        betas: AdamW's.
        seed: Of everything drawn at random.
        tokens_per_batch: Instead of `batch_size`, at most so many tokens in a batch, with the padding.
        cache_dtype: Of the states that the prefix cache holds; `bf16` rounds them.
        frozen_dropout: Frozen layers drop out as trained ones do (stock behaviour), and nothing of them is cached.
        all_tokens: The last layer computes all tokens, not only the one that is read.
        packed: The texts of a batch run one after the other, without padding; the last layer then computes all tokens.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 16
    warmup_ratio: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0
    tokens_per_batch: int | None = None
    cache_dtype: Literal["fp32", "bf16"] = "fp32"
    frozen_dropout: bool = False
    all_tokens: bool = False
    packed: bool = False


@dataclass(frozen=True)
class RunSpec:
    """Everything needed to repeat a run: the plan (which names the model), the data (by hash) and the settings."""

    plan: Plan
    train: DataInfo
    validation: DataInfo | None
    test: DataInfo | None
    settings: TrainSettings


@dataclass(frozen=True)
class Metric:
    """A number with what it takes to read it: how many samples, and which way is better."""

    name: str
    value: float
    n: int
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} (n = {self.n})"


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave.

    Attributes:
        spec: The run.
        metrics: Per split, the task's main metric first.
        trainable_parameters: Counted on the model that was trained.
        seconds: Wall-clock seconds: `train`, `cache` (making the prefix cache), `evaluate`.
        peak_memory_bytes: Highest resident memory of the process while it trained (on CUDA: of the device).
        steps: Optimizer steps.
        versions: The packages that computed it.
        provenance: When, where and from which state of the code.
        saved: What was left out of the computation and why, or why nothing was.
    """

    spec: RunSpec
    metrics: dict[str, tuple[Metric, ...]]
    trainable_parameters: int
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    steps: int
    versions: dict[str, str]
    provenance: dict[str, str]
    saved: dict[str, str] = field(default_factory=dict)

    @property
    def training_seconds(self) -> float:
        """Training and, before it, making the prefix cache."""
        return self.seconds["train"] + self.seconds.get("cache", 0.0)


@dataclass(frozen=True)
class Manifest:
    """What a saved delta is of, and what it takes to use it.

    Attributes:
        format: The version of the layout.
        plan: Names the base model, its revision and the hash of its weights.
        data: The training data's task, classes and columns; None where a user's own Trainer trained.
        max_length: Tokens that texts were cut to.
        sha256: Of the tensors' file.
    """

    format: int
    plan: Plan
    data: DataInfo | None
    max_length: int | None
    sha256: str


# --- JSON ---------------------------------------------------------------------------------------

Written = TypeVar("Written", ModelInfo, DataInfo, LayerParts, LayerScores, Cost, Plan, RunSpec, RunResult, Manifest)

_PLAIN: tuple[Any, ...] = (
    Spec, ModelInfo, DataSpec, DataInfo, LayerParts, LayerScore, Settlement, Confidence, Choice, Deviations,
    LayerScores, Flops, Memory, CostLine, Measured, Cost, Plan, TrainSettings, RunSpec, Metric, RunResult, Manifest,
)  # fmt: skip
for _type in _PLAIN:
    _type.__pydantic_config__ = ConfigDict(extra="forbid")


def to_json(thing: Any) -> dict[str, Any]:
    """A dataclass as a JSON object (tuples become lists)."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(thing), allow_nan=False))
    return content


def from_json(kind: type[Written], content: object, origin: str) -> Written:
    """The dataclass that `content` describes.

    Raises:
        ConfigError: A key is missing, unknown or of the wrong type; `origin` is named.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(
            f"{origin} is no {kind.__name__}: {where}: {first['msg'].lower()}",
            "make it again with this version of wheretune",
        ) from error


def save(thing: LayerScores | Cost | Plan | RunSpec | RunResult | Manifest, path: str | Path) -> None:
    """Writes a dataclass as a JSON file, whole or not at all."""
    write_json(Path(path), to_json(thing))


def load(kind: type[Written], path: str | Path) -> Written:
    """Reads what `save` wrote.

    Raises:
        ConfigError: There is no such file, it is not JSON, or it does not describe a `kind`.
    """
    return from_json(kind, _read(path), str(path))


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error})", "check that it is the right file") from error


def save_scores(every: Sequence[LayerScores], path: str | Path) -> None:
    """Writes the scores of one scorer as they are, of several as `{"scores": [...]}`."""
    written = [to_json(scores) for scores in every]
    write_json(Path(path), written[0] if len(written) == 1 else {"scores": written})


def load_scores(path: str | Path) -> list[LayerScores]:
    """Reads what `save_scores` wrote.

    Raises:
        ConfigError: As for `load`.
    """
    content = _read(path)
    every = content["scores"] if isinstance(content, dict) and "scores" in content else [content]
    return [from_json(LayerScores, one, str(path)) for one in every]
