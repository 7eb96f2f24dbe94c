"""Made-up records: a model's layers, scores and what they were measured on, without any model or data."""

from wheretune.records.base import Spec
from wheretune.records.data import DataInfo, DataSpec
from wheretune.records.model import LayerInfo, LayerParts, ModelInfo, ModelSpec
from wheretune.records.scores import Deviations, LayerScore, LayerScores, Reading

WIDTH, INSIDE = 8, 32


def bert_parts(**changes):
    """A small BERT layer's maps."""
    maps = {name: (WIDTH, WIDTH) for name in ("q", "k", "v", "o")} | {"up": (INSIDE, WIDTH), "down": (WIDTH, INSIDE)}
    named = {"query": "q", "key": "k", "value": "v", "attention_output": "o", "mlp_output": "down"}
    return LayerParts(**{"maps": maps, **named, "heads": 2, "biases": 5 * WIDTH + INSIDE, **changes})


def model_info(layers=4, parts=None, **spec):
    """A model of small BERT layers, its embeddings another 1,000 parameters."""
    parts = bert_parts() if parts is None else parts
    size = sum(wide * high for wide, high in parts.maps.values()) + parts.biases + 4 * WIDTH or 10_000
    infos = tuple(LayerInfo(index, f"encoder.layer.{index}", size, parts) for index in range(layers))
    total = layers * size + 1_000
    return ModelInfo(ModelSpec("org/made-up", **spec), "ab" * 32, infos, WIDTH, total, causal=False, prefix="bert")


def scores(values=(0.1, 0.4, 0.2, 0.3), scorer="cosine-centrality", model=None, **changes):
    """Scores of a made-up model by a scorer, on 30 texts of two classes."""
    count = len(values)
    data = DataInfo(DataSpec("train.csv"), 30, Spec("classification"), ("bad", "good"), "cd" * 32)
    layers = tuple(
        LayerScore(i, value, None if value is None else 0.02 * (i + 1), "no candidate" if value is None else None)
        for i, value in enumerate(values)
    )
    given = {
        "scorer": Spec(scorer), "model": model or model_info(count), "data": data, "reading": Reading(max_length=64),
        "n_samples": 30, "layers": layers, "similarity": square(count), "covariance": square(count, 0.001),
        "settlement": None, "seconds": 1.5, "versions": {"wheretune": "0.2.0"}, "tokens": 10.0,
    }  # fmt: skip
    return LayerScores(**given | changes)


def square(count, scale=1.0):
    """A symmetric positive matrix."""
    return tuple(tuple(scale * 0.8 ** abs(row - column) for column in range(count)) for row in range(count))


def deviations(layers=4, bins=32, last=0.5):
    """Deviations that fall from layer to layer, down to a mean of `last`."""
    middles = [(number + 0.5) * 2 / bins for number in range(bins)]
    means = tuple(1.6 + (last - 1.6) * space / layers for space in range(layers + 1))
    counts = tuple(tuple(max(0, round(100 - 400 * abs(middle - mean))) for middle in middles) for mean in means)
    gains = tuple(tuple(1 + abs(number - bins // 2) for number in range(bins)) for _ in range(layers))
    return Deviations(means, 2.0, counts, gains, tuple(10 * (layer + 1) for layer in range(layers)))
