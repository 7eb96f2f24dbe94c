"""Back to plain Transformers: a family's own sequence classifier that computes our head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

SMALL = 2.0**-14  # tanh(SMALL h) / SMALL is h within 2e-6 of its size for |h| up to 40, and W / SMALL fits fp16


def plain_classifier(
    base: nn.Module, maps: Sequence[nn.Linear], classes: tuple[str, ...], problem_type: str, pad_token_id: int
) -> nn.Module | None:
    """Transformers' own sequence classifier that computes the head on the representative token.

    Decoders have just one linear map. BERT, RoBERTa, MPNet and their kin put tanh(dense(h)) before it;
    with a dense map of SMALL times the identity, tanh is linear to fp32's precision, and the classifier
    undoes the factor. Other families' classifiers cannot say it. A head of two maps is that of such a family.

    Args:
        base: The headless model with its tuned weights.
        maps: The linear maps of the head, one or two.
        classes: The class names; none where numbers are predicted.
        problem_type: What Transformers calls the task.
        pad_token_id: Of the tokenizer: by it a decoder's classifier tells where a padded text ends.

    Returns:
        The classifier, or None where the family's cannot compute the same. The caller must still compare.
    """
    from transformers import AutoModelForSequenceClassification

    *before, linear = maps
    config = copy.deepcopy(cast(Any, base.config))
    config.num_labels = linear.out_features
    config.pad_token_id = pad_token_id
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: i for i, name in enumerate(classes)}
    config.problem_type = problem_type
    try:
        model: nn.Module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    inner: nn.Module = model.base_model  # type: ignore[assignment]
    inner.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        return model.eval() if _filled(model, inner, linear, before[0] if before else None) else None


def _filled(model: nn.Module, inner: nn.Module, linear: nn.Linear, before: nn.Linear | None) -> bool:
    """Puts the head into a classifier around `inner`, and says whether its layout could take it."""
    score = getattr(model, "score", None)
    if isinstance(score, nn.Linear) and score.bias is None and linear.bias is None:
        score.weight.copy_(linear.weight)
        return True
    named = (
        getattr(model, name, None) for name in ("classifier", "classification_head")
    )  # BART's and T5's is the latter
    top = next((one for one in named if one is not None), None)
    pooler = getattr(inner, "pooler", None)
    dense = getattr(pooler, "dense", None) or getattr(top, "dense", None) or getattr(model, "pre_classifier", None)
    final = top if isinstance(top, nn.Linear) else getattr(top, "out_proj", None)
    if not isinstance(dense, nn.Linear) or not isinstance(final, nn.Linear) or linear.bias is None:
        return False
    if dense.weight.shape != (linear.in_features, linear.in_features):
        return False
    if before is None:
        dense.weight.copy_(SMALL * torch.eye(linear.in_features))
        dense.bias.zero_()
        final.weight.copy_(linear.weight / SMALL)
    else:
        dense.weight.copy_(before.weight)
        dense.bias.copy_(before.bias)
        final.weight.copy_(linear.weight)
    final.bias.copy_(linear.bias)
    return True
