"""The scores of all layers, how they were read, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from rich.jupyter import JupyterMixin
from rich.table import Table

from wheretune.errors import ConfigError
from wheretune.records.base import Spec, from_json, read_json, record, to_json
from wheretune.records.data import DataInfo
from wheretune.records.model import LayerParts, ModelInfo
from wheretune.show.figures import heatmap_figure, profile_figure, violin_figure
from wheretune.show.tables import profile_table
from wheretune.support.files import digest, write_json
from wheretune.support.words import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pooling = Literal["token", "mean"]


@record
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
    parts: LayerParts = field(default_factory=LayerParts)


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

    def __str__(self) -> str:
        doubtful = [f"{layer} ({share:.0%})" for layer, share in enumerate(self.layers) if 0.05 < share < 0.95]
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

    def __str__(self) -> str:
        words = f"{self.selector} chooses layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))}"
        if self.reason is not None:
            words += f" ({self.reason})"
        return words if self.confidence is None else f"{words}: {self.confidence}"


@record
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


@record
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

    def plot(self, chosen: tuple[int, ...] = (), blocks: tuple[range, ...] = ()) -> Figure:
        """The score profile with error bars; `chosen` layers are marked and `blocks` shaded."""
        return profile_figure(
            self.values.tolist(),
            self.stds.tolist(),
            label=self.scorer.name.replace("-", " "),
            title=f"{short_name(self.model.name)}: {self.scorer.name}, n = {self.n_samples}",
            blocks=blocks,
            chosen=chosen,
        )

    def plot_deviations(self, before: LayerScores | None = None) -> Figure:
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

    def plot_similarity(self) -> Figure:
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


def save_scores(every: Sequence[LayerScores], path: str | Path) -> None:
    """Writes the scores of one scorer as they are, of several as `{"scores": [...]}`."""
    written = [to_json(scores) for scores in every]
    write_json(Path(path), written[0] if len(written) == 1 else {"scores": written})


def load_scores(path: str | Path) -> list[LayerScores]:
    """Reads what `save_scores` wrote.

    Raises:
        ConfigError: As for `load`.
    """
    content = read_json(path)
    every = content["scores"] if isinstance(content, dict) and "scores" in content else [content]
    return [from_json(LayerScores, one, str(path)) for one in every]


LastState = Literal["normed", "raw"]
