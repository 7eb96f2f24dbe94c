"""The scores of all layers, how they were read, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wheretune.errors import ConfigError
from wheretune.records import older
from wheretune.records.base import Shown, Spec, from_json, looks, read_json, record, require, to_json
from wheretune.records.cost import MOST_TOKENS
from wheretune.records.data import DataInfo, check_seed
from wheretune.records.model import ModelInfo
from wheretune.support.files import digest, write_json

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

Pooling = Literal["token", "mean", "targets"]
LastState = Literal["normed", "raw"]
Matrix = tuple[tuple[float, ...], ...]


ENOUGH = 1024
"""Texts by which a run chooses by itself; docs/evidence.md: 128 settle the choice. `wheretune score` reads all."""


@record
class Reading:
    """How texts are read to be scored: all that the numbers depend on, beside the model, the data and the scorer.

    Attributes:
        batch_size: Texts in a forward pass. Only what is computed batch by batch (`gradient-norm`,
            `fisher:per=batch`) depends on it.
        pooling: The representative token, or the mean over unmasked tokens. Of a language model's task the
            representative token is the one that predicts the first token of the (last) answer, and `targets` is the
            mean over those that predict a learned token.
        last: The last state after the final norm (as Transformers gives it) or before.
        standardise: Every dimension of every latent space goes to mean 0 and deviation 1 over the data first, so that a
            few dimensions of great variance (rogue ones, Timkey and van Schijndel 2021) do not decide every cosine.
        seed: Seed for the order of the texts, where they are read in random order, and for a fresh head.
        max_length: Tokens that texts were cut to; None where no text was read.
        most: Texts that are read at most, drawn by the seed; None reads all.
    """

    batch_size: int = 32
    pooling: Pooling = "token"
    last: LastState = "normed"
    standardise: bool = False
    seed: int = 0
    max_length: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("max_length", self.max_length), ("most", self.most)):
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', ' ')} is {value}", "give 1 or more", name)
        check_seed(self.seed)


@record
class LayerScore:
    """The score of one layer.

    Attributes:
        index: Counted from 0.
        score: None for a layer that is no candidate.
        std: The population standard deviation over samples, where the score is a mean over samples.
        excluded: Why the layer is no candidate.
    """

    index: int
    score: float | None
    std: float | None = None
    excluded: str | None = None

    def __post_init__(self) -> None:
        require((self.score is None) == (self.excluded is not None), f"layer {self.index} has a score or is excluded")
        require(self.std is None or self.std >= 0, f"layer {self.index} has a deviation below 0")


@record
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
        texts: How many there were to be read; None in files that do not say.
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
    texts: int | None = None

    def __str__(self) -> str:
        what = f"{self.selector} chooses {', '.join(map(str, self.layers))}"
        if self.n_samples < self.least:
            return f"{what}, but {self.n_samples} samples are too few to call that settled: it takes {self.least}"
        if self.settled:
            read = f"{self.n_samples} samples"
            when = f"once all {read} were read" if self.n_samples == self.texts else f"after {read}"
            return f"{what}: settled {when} ({self.confidence:.0%}, {self.method})"
        pairs = ", ".join(f"{winner} and {loser}" for winner, loser in self.open)
        return f"{what}, but {self.n_samples} samples do not settle it: too close to tell are layers {pairs}"


@record
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

    def __post_init__(self) -> None:
        shares = (self.selection, *self.layers)
        require(all(-1e-9 <= share <= 1 + 1e-9 for share in shares), "a share of resamples is not from 0 to 1")

    def __str__(self) -> str:
        return self.in_words(str)

    def in_words(self, called: Callable[[int], str]) -> str:
        """How sure it is, with what layers are called."""
        doubtful = [f"{called(layer)} ({share:.0%})" for layer, share in enumerate(self.layers) if 0.05 < share < 0.95]
        words = f"{self.selection:.0%} of resamples choose the same layers"
        if doubtful:
            words += f"; in doubt: layers {', '.join(doubtful)}"
        if self.selection < 0.5:
            words += "; the choice is unstable: most resamples make another"
        return words + ("; the profile is flat: layers differ by less than their scores vary" if self.flat else "")


@record
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

    def __post_init__(self) -> None:
        require(list(self.layers) == sorted(set(self.layers)), "the chosen layers are not ascending")

    def __str__(self) -> str:
        return self.in_words(str)

    def in_words(self, called: Callable[[int], str]) -> str:
        """What is chosen, with what layers are called."""
        words = f"{self.selector} chooses layer{'s' * (len(self.layers) > 1)} {', '.join(map(called, self.layers))}"
        if self.reason is not None:
            words += f" ({self.reason})"
        return words if self.confidence is None else f"{words}: {self.confidence.in_words(called)}"


@record
class Deviations:
    """How far each latent space is from the label's meaning, over samples, and what each layer gains (SALF).

    Attributes:
        means: Mean deviation before layer 0 and after every layer.
        highest: The highest deviation there can be; the histograms' bins are equal parts of 0 to it.
        counts: Samples per bin, one row per latent space (L + 1).
        gains: Samples per bin of the gain, in equal parts of -highest to highest, one row per layer (L).
        eof_layers: Samples whose gain is largest at each layer: below it a sample would freeze (S algorithm 3).
    """

    means: tuple[float, ...]
    highest: float
    counts: tuple[tuple[int, ...], ...]
    gains: tuple[tuple[int, ...], ...]
    eof_layers: tuple[int, ...]

    def __post_init__(self) -> None:
        spaces = len(self.means)
        require(len(self.counts) == spaces, f"it has {spaces} latent spaces and histograms of {len(self.counts)}")
        fitting = len(self.gains) == len(self.eof_layers) == spaces - 1
        require(fitting, f"it has {spaces} latent spaces, and gains of {len(self.gains)} layers")
        require(self.highest > 0, "the highest deviation is not above 0")
        rows = [*self.counts, *self.gains]
        require(len({len(row) for row in rows}) == 1 and len(rows[0]) > 0, "its histograms differ in bins")
        require(min([*self.eof_layers, *(min(row) for row in rows)]) >= 0, "it counts below 0")
        require(all(sum(row) > 0 for row in rows), "a histogram has no samples")

    def __str__(self) -> str:
        total = max(1, sum(self.eof_layers))
        shares = ((count / total, layer) for layer, count in enumerate(self.eof_layers) if count)
        most = ", ".join(f"{layer} ({share:.0%})" for share, layer in sorted(shares, reverse=True)[:5])
        return f"most of the deviation goes at layers (share of texts): {most}"


@record
class LayerScores(Shown):
    """The scores of all layers by one scorer, with all it takes to repeat them.

    Attributes:
        scorer: The scorer.
        model: The model that was scored.
        data: The data it was scored on.
        reading: How the texts were read.
        n_samples: The samples the scores are made of; 0 where the scorer read no text.
        layers: One entry per layer, in order.
        similarity: Mean similarity of every pair of layers (L x L), where the scorer has one; 0 between the stacks of
            an encoder-decoder, which are not compared.
        covariance: n times the covariance of the layers' scores over resamples of the data (L x L): for scores that are
            means, the population covariance over samples.
        settlement: Whether the pass stopped early, and why.
        seconds: Wall-clock time of the scoring pass.
        versions: The packages that computed it.
        deviations: Of every latent space, where the scorer measures them.
        choice: What one selector makes of the scores, and how sure that is.
        tokens: The mean number of tokens in a text as it was read, special ones included; None where none was read.
        learned: How many of these are learned, where the task reads every token.
        format: The version of this layout.
    """

    scorer: Spec
    model: ModelInfo
    data: DataInfo
    reading: Reading
    n_samples: int
    layers: tuple[LayerScore, ...]
    similarity: Matrix | None
    covariance: Matrix | None
    settlement: Settlement | None
    seconds: float
    versions: dict[str, str]
    deviations: Deviations | None = None
    choice: Choice | None = None
    tokens: float | None = None
    learned: float | None = None
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        count = len(self.model)
        require(len(self.layers) == count, f"it scores {len(self.layers)} layers of a model of {count}")
        require([layer.index for layer in self.layers] == list(range(count)), "its layers are out of order")
        require(any(layer.score is not None for layer in self.layers), "no layer has a score")
        for name, matrix in (("similarity", self.similarity), ("covariance", self.covariance)):
            square = matrix is None or [len(row) for row in matrix] == [count] * count
            require(square, f"its {name} is not {count} x {count}")
        scale = max((abs(layer.score) for layer in self.layers if layer.score is not None), default=0.0)
        require(self.covariance is None or _can_vary(self.covariance, scale), "its covariance is no covariance")
        spaces = count + 1 if self.deviations is None else len(self.deviations.means)
        require(spaces == count + 1, f"it has deviations of {spaces} latent spaces, and {count} layers")
        require(self.n_samples >= 0 and self.seconds >= 0, "it counts below 0")
        require(self.tokens is None or 0 < self.tokens <= MOST_TOKENS, f"tokens is {self.tokens}")
        self._check_choice(count)

    def _check_choice(self, count: int) -> None:
        """Refuses a choice of layers that are not there."""
        chosen = (*(self.choice.layers if self.choice else ()), *(self.settlement.layers if self.settlement else ()))
        require(all(0 <= layer < count for layer in chosen), "a layer is chosen that is not there")
        sure = self.choice.confidence if self.choice else None
        require(sure is None or len(sure.layers) == count, f"its confidence is not of {count} layers")

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

    def plot(self, chosen: tuple[int, ...] = (), blocks: tuple[range, ...] = ()) -> Figure:
        """The score profile with error bars; `chosen` layers are marked and `blocks` shaded."""
        figure: Figure = looks("profile_of", self, chosen, blocks)
        return figure

    def plot_deviations(self, before: LayerScores | None = None) -> Figure:
        """The deviations of every latent space as violins (SALF figures 5 and 6), and those `before` tuning.

        Raises:
            ConfigError: These scores, or those before, are not semantic deviations, or the models differ in layers.
        """
        figure: Figure = looks("deviations_of", self, before)
        return figure

    def plot_similarity(self) -> Figure:
        """The mean similarity of every pair of layers as a heatmap.

        Raises:
            ConfigError: The scorer compares no pairs of layers.
        """
        figure: Figure = looks("similarity_of", self)
        return figure

    def profile(self, chosen: tuple[int, ...] = ()) -> Any:
        """The score profile as a table with bars; `chosen` layers are marked."""
        return looks("terminal", self, chosen=chosen)

    def __repr__(self) -> str:
        inside = ", ".join(f"{value:.4f}" for value in self.values)
        return f"LayerScores({self.scorer.name}, n={self.n_samples}, [{inside}])"


def _can_vary(matrix: Matrix, scale: float) -> bool:
    """Whether a matrix is symmetric, and no combination of layers varies by less than nothing, up to rounding.

    Args:
        matrix: The covariance.
        scale: The largest score. Where texts hardly differ, what is left of a variance is the rounding of its square.
    """
    values = np.array(matrix)
    size, rounding = np.abs(values).max(), 1e-12 * scale**2
    if not np.allclose(values, values.T, rtol=0, atol=1e-9 * size + rounding):
        return False
    return bool(np.linalg.eigvalsh(values).min() >= -1e-6 * size - rounding)


def save_scores(every: Sequence[LayerScores], path: str | Path) -> None:
    """Writes the scores of one scorer as they are, of several as `{"scores": [...]}`."""
    written = [to_json(scores) for scores in every]
    write_json(Path(path), written[0] if len(written) == 1 else {"scores": written})


def load_scores(path: str | Path) -> list[LayerScores]:
    """Reads what `save_scores` wrote, also as wheretune 0.1.0 wrote it.

    Raises:
        ConfigError: There is no such file, it is not JSON, or it does not hold scores.
    """
    content = read_json(path)
    every = content["scores"] if isinstance(content, dict) and isinstance(content.get("scores"), list) else [content]
    if not every:
        raise ConfigError(f"{path} holds no scores", "score again")
    return [from_json(LayerScores, older.scores(one, str(path)), str(path)) for one in every]
