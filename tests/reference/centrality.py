"""Slow twins of the centrality scorers, from the papers' equation 1: one text at a time, no padding, NumPy."""

import numpy as np
import torch


def representative_states(model, tokenizer, text, max_length, causal):
    """Layers x hidden: the representative token of every layer, from plain `output_hidden_states`."""
    inputs = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    return np.stack([state[0, -1 if causal else 0].numpy().astype(np.float64) for state in states[1:]])


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def negative_distance(a, b):
    return -np.linalg.norm(a - b)


def centrality(model, tokenizer, texts, similarity, max_length, causal):
    """Per text the L x L similarities; then means, population deviations and the mean matrix."""
    every = []
    for text in texts:
        h = representative_states(model, tokenizer, text, max_length, causal)
        every.append([[similarity(a, b) for b in h] for a in h])
    pairs = np.array(every)
    layers = pairs.shape[1]
    scores = np.array([[np.mean([p[i, j] for j in range(layers) if j != i]) for i in range(layers)] for p in pairs])
    return scores.mean(0), scores.std(0), pairs.mean(0)
