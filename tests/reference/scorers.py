"""Slow twins of the scorers, from the papers' formulas: one text at a time, no padding, NumPy."""

from itertools import pairwise

import numpy as np
import torch


def hidden_states(model, tokenizer, text, max_length):
    """States x tokens x hidden, embeddings first, from plain `output_hidden_states`."""
    inputs = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    return np.stack([state[0].numpy().astype(np.float64) for state in states])


def representative(states, causal):
    return states[:, -1 if causal else 0]


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def negative_distance(a, b):
    return -np.linalg.norm(a - b)


def centrality(every, causal, similarity):
    """Per text the L x L similarities; then means, population deviations and the mean matrix."""
    pairs = np.array(
        [[[similarity(a, b) for b in h] for a in h] for h in (representative(states, causal)[1:] for states in every)]
    )
    layers = pairs.shape[1]
    scores = np.array([[np.mean([p[i, j] for j in range(layers) if j != i]) for i in range(layers)] for p in pairs])
    return scores.mean(0), scores.std(0), pairs.mean(0)


def io_cosine(every):
    scores = np.array(
        [[np.mean([cosine(a, b) for a, b in zip(x, y, strict=True)]) for x, y in pairwise(s)] for s in every]
    )
    return scores.mean(0), scores.std(0)


def feature_variance(every, causal):
    h = np.stack([representative(states, causal)[1:] for states in every])
    return h.var(0).mean(1)


def hsic_biased(k, m):
    n = len(k)
    centre = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ centre @ m @ centre)


def hsic_unbiased(k, m):
    """Song et al. 2012, equation 5, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    terms = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
    return terms / (n * (n - 3))


def cka(x, y, hsic):
    x, y = x - x.mean(0), y - y.mean(0)  # changes neither HSIC, but without it the unbiased one loses digits
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def layer_cka(every, causal, hsic):
    h = np.stack([representative(states, causal) for states in every])
    return [cka(h[:, i], h[:, i + 1], hsic) for i in range(h.shape[1] - 1)]


def weight_snr(matrices):
    signal = noise = 0.0
    for matrix in matrices:
        s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        sigma = (np.percentile(s, 75) - np.percentile(s, 25)) / 1.349
        edge = sigma * (1 + np.sqrt(min(matrix.shape) / max(matrix.shape)))
        signal, noise = signal + sum(v for v in s if v > edge), noise + sum(v for v in s if v <= edge)
    return signal / noise
