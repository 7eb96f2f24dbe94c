"""What tokens mean in the last latent space of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from wheretune.errors import ModelError
from wheretune.model.dispatch import weight

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack

ROWS_AT_ONCE = 8192  # of an output matrix, while it is multiplied with itself in fp64


def semantic_bases(stack: LayerStack, tokens: Sequence[int]) -> Float[Tensor, "label hidden"]:
    """What each token means in the last latent space: its row of the pseudo-inverse of the output matrix (S 2.1).

    With W the V x d output matrix, W_o = W' maps states to logits, and

        base(v) = e_v W_o^+ = W_v (W'W)^+

    so only d x d is inverted, in fp64, and only the rows of `tokens` are formed, whatever the size of the vocabulary
    and the precision of the weights.

    Raises:
        ModelError: The model has no output matrix, or is an encoder.
    """
    output = getattr(stack.model, "get_output_embeddings", lambda: None)()
    if output is None or not stack.causal:
        what = "has no output matrix" if stack.causal else "is an encoder, which predicts no next token"
        raise ModelError(
            f"{type(stack.model).__name__} {what}", "open a causal language model with AutoModelForCausalLM"
        )
    matrix = weight(output, "weight")
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for part in torch.split(matrix, ROWS_AT_ONCE):
        gram += part.double().T @ part.double()
    inverse = torch.linalg.pinv(gram, hermitian=True)
    bases: Tensor = (matrix[list(tokens)].double() @ inverse).float()
    return bases
