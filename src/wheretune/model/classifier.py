"""Back to plain Transformers: a family's own sequence classifier that computes our head."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

SMALL = 2.0**-14  # tanh(SMALL h) / SMALL is h within 2e-6 of its size for |h| up to 40, and W / SMALL fits fp16


def plain_classifier(
    base: nn.Module, linear: nn.Linear, classes: tuple[str, ...], problem_type: str, pad_token_id: int
) -> nn.Module | None:
    """Transformers' own sequence classifier that computes `linear` on the representative token.

    Decoders have just that linear map. BERT, RoBERTa, MPNet and their kin put tanh(dense(h)) before it;
    with a dense map of SMALL times the identity, tanh is linear to fp32's precision, and the classifier
    undoes the factor. Other families' classifiers cannot say it.

    Args:
        base: The headless model with its tuned weights.
        linear: The head.
        classes: The class names; none where numbers are predicted.
        problem_type: What Transformers calls the task.
        pad_token_id: Of the tokenizer: by it a decoder's classifier tells where a padded text ends.

    Returns:
        The classifier, or None where the family's cannot compute the same. The caller must still compare.
    """
    from transformers import AutoModelForSequenceClassification

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
        score = getattr(model, "score", None)
        if isinstance(score, nn.Linear) and score.bias is None and linear.bias is None:
            score.weight.copy_(linear.weight)
            return model.eval()
        top = getattr(model, "classifier", None)
        dense = getattr(getattr(inner, "pooler", None), "dense", None) or getattr(top, "dense", None)
        final = top if isinstance(top, nn.Linear) else getattr(top, "out_proj", None)
        if not isinstance(dense, nn.Linear) or not isinstance(final, nn.Linear) or linear.bias is None:
            return None
        if dense.weight.shape != (linear.in_features, linear.in_features):
            return None
        dense.weight.copy_(SMALL * torch.eye(linear.in_features))
        dense.bias.zero_()
        final.weight.copy_(linear.weight / SMALL)
        final.bias.copy_(linear.bias)
    return model.eval()
