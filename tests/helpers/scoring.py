"""A model as `open_model` gives it, one pass over some data, and its scores."""


def opened_of(model_or_stack, tokenizer):
    """A model that is in memory, as `open_model` would give it."""
    from wheretune.model.finding import find_layers
    from wheretune.model.identity import describe, fingerprints
    from wheretune.model.opening import Opened
    from wheretune.model.stack import LayerStack

    stack = model_or_stack if isinstance(model_or_stack, LayerStack) else find_layers(model_or_stack)
    hashes = fingerprints(stack)
    return Opened(stack, tokenizer, describe(stack, hashes), hashes)


def gather_all(model_or_stack, tokenizer, data, scorers, *, settle=None, shard=(1, 1), keep=None, **reading):
    """`gather` on a model that is in memory; `reading` are the settings of a `Reading`."""
    from wheretune.records.scores import Reading
    from wheretune.scoring.one_pass import gather

    opened = opened_of(model_or_stack, tokenizer)
    return gather(opened, data, scorers, Reading(**reading), settle=settle, shard=shard, keep=keep)


def score_all(model_or_stack, tokenizer, data, scorers, **settings):
    """`gather` and `finish` in one."""
    from wheretune.scoring.gathered import finish

    return finish(gather_all(model_or_stack, tokenizer, data, scorers, **settings))


def with_profile(scores, values, stds=None, **changes):
    """Scores with another profile, of a model of as many layers, each of 100 parameters and unknown maps."""
    from dataclasses import replace

    from wheretune.records.model import LayerInfo
    from wheretune.records.scores import LayerScore

    stds = stds if stds is not None else [0.001] * len(values)
    layers = tuple(LayerInfo(i, f"layer.{i}", 100) for i in range(len(values)))
    flat = tuple((0.0,) * len(values) for _ in values)
    scored = tuple(LayerScore(i, float(v), float(s)) for i, (v, s) in enumerate(zip(values, stds, strict=True)))
    model = replace(scores.model, layers=layers)
    return replace(scores, **{"model": model, "layers": scored, "similarity": flat, "covariance": None, **changes})
