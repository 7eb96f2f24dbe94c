"""What a scorer has made of its sums -> the record of its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wheretune.errors import ScoreError
from wheretune.records.scores import LayerScore, LayerScores
from wheretune.support.log import log

if TYPE_CHECKING:
    from jaxtyping import Float

    from wheretune.records.base import Spec
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import Reading, Settlement
    from wheretune.scorers.base import Finished


def layer_scores(
    scorer: Spec,
    finished: Finished,
    info: ModelInfo,
    data: DataInfo,
    reading: Reading,
    *,
    n_samples: int,
    tokens: float | None,
    seconds: float,
    versions: dict[str, str],
    settlement: Settlement | None = None,
) -> LayerScores:
    """The record of what a scorer has made of its sums.

    Raises:
        ScoreError: The score of a layer is not finite.
    """
    for index, why in finished.excluded.items():
        log.warning("layer %s is no candidate: %s", info.called(index), why)
    return LayerScores(
        scorer=scorer,
        model=info,
        data=data,
        reading=reading,
        n_samples=n_samples,
        layers=tuple(_layer_score(index, finished) for index in range(len(info))),
        similarity=_plain(finished.similarity),
        covariance=_plain(_mended(finished.covariance)),
        settlement=settlement,
        seconds=seconds,
        versions=versions,
        deviations=finished.deviations,
        tokens=tokens,
    )


def _mended(covariance: Float[np.ndarray, "layer layer"] | None) -> Float[np.ndarray, "layer layer"] | None:
    """A covariance without what rounding left: of texts that hardly differ it is as small as that."""
    if covariance is None or not np.isfinite(covariance).all():
        return covariance
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    mended: np.ndarray = covariance if values[0] >= -1e-9 * values[-1] else (vectors * values.clip(min=0)) @ vectors.T
    even: np.ndarray = (mended + mended.T) / 2
    return even


def _plain(matrix: Float[np.ndarray, "row column"] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(map(tuple, matrix.tolist()))


def _layer_score(index: int, finished: Finished) -> LayerScore:
    value = float(finished.values[index])
    why = finished.excluded.get(index)
    if why is None and not np.isfinite(value):
        raise ScoreError(f"the score of layer {index} is not finite", "check the model's weights")
    std = None if finished.stds is None or why is not None else float(finished.stds[index])
    return LayerScore(index=index, score=value if why is None else None, std=std, excluded=why)
