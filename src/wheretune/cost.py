"""FLOPs of a plan: the speed-up to expect from freezing, and its limit.

A training step costs every layer one unit for the forward pass, one for the gradient of its input and one
for the gradient of its weights. Full fine-tuning pays 3 L. A plan pays L forward, the input gradient from
its lowest layer upward, and the weight gradient of its chosen layers only. Embeddings, head and optimizer
are left out, so this is what the layers' arithmetic allows, not what a machine will show.
"""

from collections.abc import Sequence


def expected_speed_up(layers: int, chosen: Sequence[int], weights: float = 1.0) -> float:
    """Full fine-tuning's FLOPs of one training step over those of training `chosen`.

    Args:
        layers: L.
        chosen: The layers that train; none means the head alone.
        weights: The share of the chosen layers' weights that the tuner trains; 1 for whole layers, near 0 for LoRA.

    Returns:
        3 L / (L + (L - lowest chosen) + k weights); 3 for the head alone.
    """
    return 1 / compute_share(layers, chosen, weights)


def compute_share(layers: int, chosen: Sequence[int], weights: float = 1.0) -> float:
    """The share of full fine-tuning's FLOPs that training `chosen` of `layers` costs."""
    lowest = min(chosen, default=layers)
    return (layers + (layers - lowest) + len(chosen) * weights) / (3 * layers)
